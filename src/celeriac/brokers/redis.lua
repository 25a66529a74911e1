--[[
The Redis broker's scripts. Each runs on one queue, whose base name is KEYS[1]: `<prefix>{<queue>}`. All keys of a queue
share the hash tag {<queue>}, so that they live in one slot of a cluster. Times are milliseconds of the server's clock.

  base:0 .. base:9   list    ready messages of each priority, oldest first: the message's bytes and nothing else
  base:s             list    suspects: messages to be delivered alone (a crash behind them, or a verdict on them)
  base:d             zset    delayed messages: score = due time, member = class, number, ":", message
  base:o             zset    owners: score = end of lease, member = owner
  base:h:<owner>     hash    what an owner holds: fence -> class, message
  base:n             hash    owner -> the number of its last take
  base:i             set     owners that wait for work
  base:a             string  the appointment: "<due time> <owner>", who of those wakes when the next delayed one is due
  base:f             string  the last fence number given out
  base:u             string  the last number given to a delayed member or a dead letter
  base:t             string  when housekeeping was last done
  base:l:<name>      string  the number of the last send over the connection of that name; "!" after a lost answer; for a
                             minute. In a cluster, too: that a follow-up of another queue's delivery has come
  base:p             string  there while the queue is paused
  base:c             hash    key -> JSON list of casualties, for messages with crashes behind them
  base:v             hash    key -> verdict, for messages whose end is decided
  base:r             zset    what is revoked and was not found waiting: score = until when it is remembered, member = key
  base:g             hash    key -> signal or '', for those of base:r whose runs are to be ended
  base:m             hash    class -> how many entries of that ready list are holes, where messages were moved away
  base:x             zset    dead letters: score = a growing number, member = key
  base:y             hash    key -> class, JSON header, newline, message; for each dead letter
  base:e             string  how many dead letters have been evicted, being too old or too many
  base:k             list    the messages of the queue's open crate (redis_moving.lua), in five words each
  base:q             hash    "series", "number" and "target" of the queue's last crate
  base:j             hash    series -> the number of the last crate of it that was unpacked here
  <prefix>queues     set     names of all queues
  <prefix>bans       zset    what is revoked without being known by its key: score = until when it is remembered
  <prefix>s:<name>   zset    the queues that have copies of what is sent to a broadcast: score = until when

Scripts that take look at base:r and base:m only where one of them exists: who revokes nothing pays nothing.

A class is one character: a priority, "s" for a suspect or, in a holding only, "e" for a message that has been
committed: its run has begun and must not be repeated. A key is the message's id, bytes 2 to 17. The channel
`celeriac.wake:<owner>` carries the base name of a queue to look at; `<prefix>control:<database>:<name>` carries notices.
]]

-- What is in the place of a message that was moved out of its list. To take the entry out, the server would have to look at
-- every other one: 30 ms in a list of a million.
local HOLE = 'celeriac: moved'

local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

-- Tell one waiting owner to look; an owner that is gone does not count.
local function wake(base)
  while true do
    local owner = redis.call('SPOP', base .. ':i')
    if not owner then return end
    if redis.call('PUBLISH', 'celeriac.wake:' .. owner, base) > 0 then return end
  end
end

local function put_off(base, class, due, message)
  local member = class .. redis.call('INCR', base .. ':u') .. ':' .. message
  redis.call('ZADD', base .. ':d', due, member)
  if redis.call('ZRANK', base .. ':d', member) == 0 then wake(base) end
end

-- Store one message: ready when delay is '', else due so many milliseconds from now. Wakes nobody when ready: the caller
-- does, once.
local function store(base, class, delay, message)
  if delay == '' then
    redis.call('RPUSH', base .. ':' .. class, message)
  else
    put_off(base, class, now() + delay, message)
  end
end

-- Whether a send is one that has not come before. ARGV[1] is the number of arguments that mark it: name of the connection
-- and number of the call, then the same of earlier tries whose answers were lost. What comes of those from now on does
-- nothing: its bytes were on their way for long.
local function is_new(base)
  local count = tonumber(ARGV[1])
  local seat, new = base .. ':l:' .. ARGV[2], true
  if redis.call('SET', seat, ARGV[3], 'PX', 60000, 'GET') == '!' then
    redis.call('SET', seat, '!', 'PX', 60000)
    return false
  end
  for i = 4, count, 2 do
    if redis.call('SET', base .. ':l:' .. ARGV[i], '!', 'PX', 60000, 'GET') == ARGV[i + 1] then new = false end
  end
  return new
end

-- Move what is due to its ready list. Returns when the next one is due, or nil.
local function promote(base, t)
  while true do
    local first = redis.call('ZRANGE', base .. ':d', 0, 0, 'WITHSCORES')
    if #first == 0 then return nil end
    local due = tonumber(first[2])
    if due > t then return due end
    local members = redis.call('ZRANGEBYSCORE', base .. ':d', '-inf', t, 'LIMIT', 0, 500)
    redis.call('ZREMRANGEBYRANK', base .. ':d', 0, #members - 1)
    for _, member in ipairs(members) do
      local colon = string.find(member, ':', 2, true)
      redis.call('RPUSH', base .. ':' .. string.sub(member, 1, 1), string.sub(member, colon + 1))
    end
  end
end

-- So many delayed members behind those that an earlier step ended at, the last due first; and where this step ends, '' at
-- the end of all.
local function last_due(base, cursor, count)
  local first = 0
  if cursor ~= '' then
    local space = string.find(cursor, ' ', 1, true)
    local rank = redis.call('ZREVRANK', base .. ':d', string.sub(cursor, space + 1))
    first = rank and rank + 1 or redis.call('ZCOUNT', base .. ':d', '(' .. string.sub(cursor, 1, space - 1), '+inf')
  end
  local members = redis.call('ZREVRANGE', base .. ':d', first, first + count - 1)
  if #members < count then return members, '' end
  return members, redis.call('ZSCORE', base .. ':d', members[count]) .. ' ' .. members[count]
end

local function ready(base)
  return redis.call('EXISTS', base .. ':0', base .. ':1', base .. ':2', base .. ':3', base .. ':4', base .. ':5',
    base .. ':6', base .. ':7', base .. ':8', base .. ':9', base .. ':s')
end

-- The first of so many new fences. They grow with the clock as well: a server that has lost its last second, in a power cut
-- or to a replica that takes over, must not give out numbers again under which somebody still holds other messages.
local function fences(base, count, t)
  local first, least = redis.call('INCRBY', base .. ':f', count) - count + 1, t * 1000
  if first >= least then return first end
  redis.call('SET', base .. ':f', string.format('%.0f', least + count - 1))
  return least
end

-- Scores of keys in base:r: until when each is remembered, or false.
local function remembered(base, keys)
  local scores = {}
  for i = 1, #keys, 4000 do
    local part = redis.call('ZMSCORE', base .. ':r', unpack(keys, i, math.min(i + 3999, #keys)))
    for j = 1, #part do scores[i + j - 1] = part[j] and tonumber(part[j]) end
  end
  return scores
end

local function forget(base, key)
  redis.call('ZREM', base .. ':r', key)
  redis.call('HDEL', base .. ':g', key)
end

local function forget_expired(base, t)
  for _, key in ipairs(redis.call('ZRANGEBYSCORE', base .. ':r', '-inf', t, 'LIMIT', 0, 1000)) do forget(base, key) end
end

-- A message that waits, and is in no list now, is to be delivered next, with the verdict.
local function judge(base, key, message)
  redis.call('HSET', base .. ':v', key, 'revoked')
  redis.call('RPUSH', base .. ':s', message)
  forget(base, key)
end

local function count_holes(base, class, more)
  if redis.call('HINCRBY', base .. ':m', class, more) <= 0 then redis.call('HDEL', base .. ':m', class) end
end

-- Take the holes away that are at the head of a list: as many as take a few ms.
local function strip(base, class)
  local list = base .. ':' .. class
  for _ = 1, 50 do
    if redis.call('LINDEX', list, 0) ~= HOLE then return end
    local page = redis.call('LRANGE', list, 0, 999)
    local count = 1
    while page[count + 1] == HOLE do count = count + 1 end
    redis.call('LTRIM', list, count, -1)
    count_holes(base, class, -count)
  end
end

-- Those of messages just taken off a list that may be delivered: holes are none, and what is remembered as revoked is judged.
local function sift(base, class, t, messages)
  local keys, good, holes = {}, {}, 0
  for i, message in ipairs(messages) do keys[i] = string.sub(message, 2, 17) end
  local scores = remembered(base, keys)
  for i, message in ipairs(messages) do
    if message == HOLE then
      holes = holes + 1
    elseif scores[i] and scores[i] > t then
      judge(base, keys[i], message)
    else
      good[#good + 1] = message
    end
  end
  if holes > 0 then count_holes(base, class, -holes) end
  return good
end

-- Keep a value of base:y under this key, or another where there is one under it.
local function add_dead(base, key, value)
  if #key < 16 or redis.call('HEXISTS', base .. ':y', key) == 1 then
    key = string.sub(redis.sha1hex(value .. redis.call('INCR', base .. ':u')), 1, 16)
  end
  redis.call('ZADD', base .. ':x', redis.call('INCR', base .. ':u'), key)
  redis.call('HSET', base .. ':y', key, value)
end

local function bury(base, t, class, message, reason, detail, casualties)
  local header = cjson.encode({reason = reason, detail = detail, at = t / 1000})
  local value = class .. header .. '\n' .. (casualties or '[]') .. '\n' .. message
  add_dead(base, string.sub(message, 2, 17), value)
end

local function absolve(base, key)
  redis.call('HDEL', base .. ':c', key)
  redis.call('HDEL', base .. ':v', key)
end

-- A message comes back with nothing counted. One that was committed must not run again: its end is decided.
local function give_back(base, class, message, cause)
  if class == 'e' then
    redis.call('HSET', base .. ':v', string.sub(message, 2, 17), 'worker_lost' .. (cause and ':' .. cause or ''))
    redis.call('RPUSH', base .. ':s', message)
  else
    redis.call('LPUSH', base .. ':' .. class, message)
  end
end

-- Add a casualty (JSON text) to a message, and make it a suspect; with too many of them, one to be buried by a worker,
-- and where that has been tried too often (see LAST_TRIES in contract.py), a dead letter.
local function crash(base, t, class, message, casualty, max_deliveries)
  if class == 'e' then return give_back(base, class, message, cjson.decode(casualty).cause) end
  local key = string.sub(message, 2, 17)
  local known = redis.call('HGET', base .. ':c', key)
  local list = known and (string.sub(known, 1, -2) .. ',' .. casualty .. ']') or ('[' .. casualty .. ']')
  local crashes = #cjson.decode(list)
  local detail = 'its process died ' .. crashes .. ' times, last by ' .. cjson.decode(casualty).cause
  local verdict = redis.call('HGET', base .. ':v', key)
  if verdict and string.sub(verdict, 1, 7) == 'crashed' and crashes >= max_deliveries + 3 then
    bury(base, t, class, message, 'crashed', detail, list)
    return absolve(base, key)
  end
  redis.call('HSET', base .. ':c', key, list)
  if crashes >= max_deliveries then
    redis.call('HSET', base .. ':v', key, 'crashed:' .. detail)
    redis.call('RPUSH', base .. ':s', message)
  else
    local pause = crashes < 2 and 0 or math.min(60, 4 ^ (crashes - 2))
    store(base, 's', pause == 0 and '' or pause * 1000, message)
  end
end

-- What an owner holds, the last taken first, so that putting each at the head restores the order.
local function holding(base, owner)
  local flat = redis.call('HGETALL', base .. ':h:' .. owner)
  local entries = {}
  for i = 1, #flat, 2 do entries[#entries + 1] = {tonumber(flat[i]), flat[i + 1]} end
  table.sort(entries, function(a, b) return a[1] > b[1] end)
  return entries
end

local function end_lease(base, owner)
  redis.call('DEL', base .. ':h:' .. owner)
  redis.call('ZREM', base .. ':o', owner)
  redis.call('HDEL', base .. ':n', owner)
  redis.call('SREM', base .. ':i', owner)
end

-- End expired leases and promote what is due. After a gap in housekeeping every lease is lengthened instead.
local function housekeep(base, t, lease, max_deliveries)
  local last = tonumber(redis.call('GET', base .. ':t') or 0)
  -- Somebody has just done it: a thousand workers cost the server no more housekeeping than one.
  if t >= last and t - last < lease / 20 then return end
  redis.call('SET', base .. ':t', t)
  if t < last or t - last > lease / 2 then
    -- By the time in which nobody looked, and to a whole lease of ours at least.
    for _, owner in ipairs(redis.call('ZRANGE', base .. ':o', 0, -1)) do
      redis.call('ZINCRBY', base .. ':o', last > 0 and t - last or 0, owner)
      redis.call('ZADD', base .. ':o', 'GT', t + lease, owner)
    end
  else
    for _, owner in ipairs(redis.call('ZRANGEBYSCORE', base .. ':o', '-inf', t, 'LIMIT', 0, 100)) do
      local casualty = cjson.encode({cause = 'lease expired', at = t / 1000, worker = owner})
      for _, entry in ipairs(holding(base, owner)) do
        crash(base, t, string.sub(entry[2], 1, 1), string.sub(entry[2], 2), casualty, max_deliveries)
      end
      end_lease(base, owner)
    end
  end
  forget_expired(base, t)
  promote(base, t)
  if ready(base) > 0 then wake(base) end
end

--[[ script send: store messages, ready or delayed.
ARGV: the marks (see `is_new`), then class, delay or '', message; repeated. Atomic for the call. ]]
local base = KEYS[1]
if not is_new(base) then return 0 end
local plain = false
for i = ARGV[1] + 2, #ARGV, 3 do
  if ARGV[i + 1] == '' then plain = true end
  store(base, ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
if plain then wake(base) end
return 1

--[[ script send_limited: store messages, ready or delayed, if no more than so many wait then.
ARGV: the marks, then how many may wait, then as for send. Atomic for the call. Returns -1 where they do not fit. ]]
local base, first = KEYS[1], ARGV[1] + 3
if not is_new(base) then return 0 end
local waiting = redis.call('ZCARD', base .. ':d')
for class in string.gmatch('0123456789s', '.') do waiting = waiting + redis.call('LLEN', base .. ':' .. class) end
for _, holes in ipairs(redis.call('HVALS', base .. ':m')) do waiting = waiting - holes end
if waiting + (#ARGV - first + 1) / 3 > tonumber(ARGV[first - 1]) then
  -- Should the answer be lost, the same call is new again.
  redis.call('SET', base .. ':l:' .. ARGV[2], '', 'PX', 60000)
  return -1
end
local plain = false
for i = first, #ARGV, 3 do
  if ARGV[i + 1] == '' then plain = true end
  store(base, ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
if plain then wake(base) end
return 1

--[[ script send_bulk: store many ready messages of one priority.
ARGV: the marks, then class and the messages. Atomic for the call. ]]
local base = KEYS[1]
if not is_new(base) then return 0 end
local class = ARGV[ARGV[1] + 2]
for i = ARGV[1] + 3, #ARGV, 4000 do
  redis.call('RPUSH', base .. ':' .. class, unpack(ARGV, i, math.min(i + 3999, #ARGV)))
end
wake(base)
return 1

--[[ script follow: store follow-ups of deliveries of other queues, in a cluster; each once within a minute.
ARGV: its mark, which names delivery and place, class, delay or '', message; repeated. ]]
local base, plain = KEYS[1], false
for i = 1, #ARGV, 4 do
  if redis.call('SET', base .. ':l:' .. ARGV[i], '', 'NX', 'PX', 60000) then
    if ARGV[i + 2] == '' then plain = true end
    store(base, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
  end
end
if plain then wake(base) end
return 1

--[[ script open: begin a lease.
ARGV: owner, lease. ]]
redis.call('ZADD', KEYS[1] .. ':o', now() + ARGV[2], ARGV[1])
return 1

--[[ script take: take up to a number of messages into the owner's holding.
ARGV: owner, limit, number of this take, and after one whose reply was lost: the last fence that has arrived.
What was taken behind that fence is in nobody's hands, and goes back first. A take that is overtaken by a later one
(its bytes were on their way for long) does nothing.
Returns {fence of the first, message, ...}, or {fence, message, crashes, verdict or ''} with a negative fence for a
suspect, or {} with nothing to take, or {due} when this owner is to look again at that many milliseconds from now;
or the status LOST when the owner has no lease here. ]]
local base, owner, limit = KEYS[1], ARGV[1], tonumber(ARGV[2])
if not redis.call('ZSCORE', base .. ':o', owner) then return {ok = 'LOST'} end
if tonumber(redis.call('HGET', base .. ':n', owner) or 0) >= tonumber(ARGV[3]) then return {} end
redis.call('HSET', base .. ':n', owner, ARGV[3])
if ARGV[4] then
  for _, entry in ipairs(holding(base, owner)) do
    if entry[1] > tonumber(ARGV[4]) then
      redis.call('HDEL', base .. ':h:' .. owner, entry[1])
      give_back(base, string.sub(entry[2], 1, 1), string.sub(entry[2], 2))
    end
  end
end
local special = redis.call('EXISTS', base .. ':p', base .. ':r', base .. ':m') > 0
if special and redis.call('EXISTS', base .. ':p') == 1 then
  redis.call('SADD', base .. ':i', owner)
  return {}
end
local t = now()
local due = promote(base, t)

-- An owner that has work now does not wait any more, and cannot keep an appointment: another is told.
local function leave_the_bench()
  redis.call('SREM', base .. ':i', owner)
  if due then
    local appointment = redis.call('GET', base .. ':a')
    if appointment and string.sub(appointment, string.find(appointment, ' ', 1, true) + 1) == owner then
      redis.call('DEL', base .. ':a')
      appointment = false
    end
    if not appointment then return wake(base) end
  end
  if ready(base) > 0 then wake(base) end
end

local function take_suspect()
  local suspect = redis.call('LPOP', base .. ':s')
  if not suspect then return nil end
  local fence = fences(base, 1, t)
  local key = string.sub(suspect, 2, 17)
  redis.call('HSET', base .. ':h:' .. owner, fence, 's' .. suspect)
  local crashes = redis.call('HGET', base .. ':c', key)
  local verdict = redis.call('HGET', base .. ':v', key)
  if special then
    if not verdict and (remembered(base, {key})[1] or 0) > t then
      verdict = 'revoked'
      redis.call('HSET', base .. ':v', key, verdict)
    end
    if verdict and string.sub(verdict, 1, 7) == 'revoked' then forget(base, key) end
  end
  leave_the_bench()
  return {-fence, suspect, crashes and #cjson.decode(crashes) or 0, verdict or ''}
end
local suspect = take_suspect()
if suspect then return suspect end

local reply, fields = {0}, {}
local high = redis.call('EXISTS', base .. ':1', base .. ':2', base .. ':3', base .. ':4', base .. ':5', base .. ':6',
  base .. ':7', base .. ':8', base .. ':9')
for class = (high > 0 and 9 or 0), 0, -1 do
  if special and redis.call('HEXISTS', base .. ':m', class) == 1 then strip(base, class) end
  for _ = 1, 50 do
    local asked = limit - #reply + 1
    local popped = redis.call('LPOP', base .. ':' .. class, asked) or {}
    for _, message in ipairs(special and sift(base, class, t, popped) or popped) do
      reply[#reply + 1] = message
      fields[#fields + 1] = 0
      fields[#fields + 1] = class .. message
    end
    -- After a full one there is more only where something was sifted out of it.
    if #popped < asked or #reply > limit then break end
  end
  if #reply > limit then break end
end
if #fields > 0 then
  local first = fences(base, #fields / 2, t)
  reply[1] = first
  for i = 1, #fields, 2 do fields[i] = first + (i - 1) / 2 end
  for i = 1, #fields, 2000 do
    redis.call('HSET', base .. ':h:' .. owner, unpack(fields, i, math.min(i + 1999, #fields)))
  end
  leave_the_bench()
  return reply
end

if special then
  suspect = take_suspect()
  if suspect then return suspect end
  -- More holes than can be taken away at once.
  if ready(base) > 0 then return {0} end
end
redis.call('SADD', base .. ':i', owner)
if not due then return {} end
local appointment = redis.call('GET', base .. ':a')
if appointment then
  local space = string.find(appointment, ' ', 1, true)
  local at, who = tonumber(string.sub(appointment, 1, space - 1)), string.sub(appointment, space + 1)
  if at <= due and who ~= owner and redis.call('SISMEMBER', base .. ':i', who) == 1 then return {} end
end
redis.call('SET', base .. ':a', due .. ' ' .. owner, 'PX', math.min(due - t + 500, 86400000))
return {due - t}

--[[ script settle: end deliveries.
ARGV[1] owner; then for each delivery: action, fence, and what the action needs.
  A fence                        acknowledge a message without crashes, results and follow-ups
  F fence nr ns na nj no records sends arrivals joins opens final   the general form: records are (key, data, ttl or ''),
                                 sends are (base, class, delay or '', message), arrivals are (name of a join, place,
                                 data), joins are names of those that end, opens are (name of a join, and what else
                                 `open_join` needs), final is one of: A | R | X reason detail | B delay message |
                                 P base class delay message (acknowledge, give back, bury, put back, replace)
Returns {number settled, error or '', fence lost, ...}; on an error the rest is untouched. ]]

-- A row of acknowledgements in two commands, however long it is. Returns the number of arguments used.
local function acknowledge_many(held, first, lost)
  local there, fences, i = {}, {}, first
  for _, fence in ipairs(redis.call('HKEYS', held)) do there[fence] = true end
  while ARGV[i] == 'A' and #fences < 4000 do
    local fence = ARGV[i + 1]
    if there[fence] then
      there[fence] = nil
      fences[#fences + 1] = fence
    else
      lost[#lost + 1] = fence
    end
    i = i + 2
  end
  if #fences > 0 then redis.call('HDEL', held, unpack(fences)) end
  return i - first
end

local base, owner = KEYS[1], ARGV[1]
local held = base .. ':h:' .. owner
local settled, lost, i = 0, {}, 2
local t
local woken = {}

-- A result comes to a join; its message is sent with the follow-ups if it is complete by that.
local function join(name, place, data)
  local message = arrive(name, place, data, false)
  if not message then return end
  local prefix = string.sub(name, 1, -19)
  local other = prefix .. '{' .. message[1] .. '}'
  redis.call('SADD', prefix .. 'queues', message[1])
  store(other, message[2], message[3], message[4])
  if message[3] == '' then woken[other] = true end
end

while i <= #ARGV do
  local action, fence = ARGV[i], ARGV[i + 1]
  if action == 'A' and ARGV[i + 8] == 'A' then
    local used = acknowledge_many(held, i, lost)
    i = i + used
    settled = settled + used / 2 - 1
  elseif action == 'A' then
    if redis.call('HDEL', held, fence) == 0 then lost[#lost + 1] = fence end
    i = i + 2
  else
    local entry = redis.call('HGET', held, fence)
    local records, sends = tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
    local arrivals, joins, opens = tonumber(ARGV[i + 4]), tonumber(ARGV[i + 5]), tonumber(ARGV[i + 6])
    i = i + 7
    if not entry then lost[#lost + 1] = fence end
    for _ = 1, records do
      if entry then
        local reply
        if ARGV[i + 2] == '' then
          reply = redis.pcall('SET', ARGV[i], ARGV[i + 1])
        else
          -- Not SET with PX: in that place Lua may hand over a buffer of up to 64 bytes that another command has left.
          reply = redis.pcall('PSETEX', ARGV[i], ARGV[i + 2], ARGV[i + 1])
        end
        if reply.err then return {settled, reply.err, unpack(lost)} end
        redis.call('PUBLISH', ARGV[i], ARGV[i + 1])
      end
      i = i + 3
    end
    for _ = 1, sends do
      if entry then
        store(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
        if ARGV[i + 2] == '' then woken[ARGV[i]] = true end
      end
      i = i + 4
    end
    for _ = 1, arrivals do
      if entry then join(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
      i = i + 3
    end
    for _ = 1, joins do
      if entry then redis.call('UNLINK', ARGV[i]) end
      i = i + 1
    end
    for _ = 1, opens do
      if entry then open_join(unpack(ARGV, i, i + 7)) end
      i = i + 8
    end
    local final = ARGV[i]
    i = i + 1
    if entry then
      local class, message = string.sub(entry, 1, 1), string.sub(entry, 2)
      local key = string.sub(message, 2, 17)
      redis.call('HDEL', held, fence)
      if final == 'R' then
        give_back(base, class, message)
        woken[base] = true
      else
        if final == 'P' then
          store(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
          if ARGV[i + 2] == '' then woken[ARGV[i]] = true end
        elseif final == 'B' then
          if class == 'e' then redis.call('HSET', base .. ':v', key, 'worker_lost') end
          store(base, class == 'e' and 's' or class, ARGV[i], ARGV[i + 1])
        elseif final == 'X' then
          t = t or now()
          bury(base, t, class, message, ARGV[i], ARGV[i + 1], redis.call('HGET', base .. ':c', key))
        end
        if final ~= 'B' and (class == 's' or class == 'e') then absolve(base, key) end
      end
    end
    i = i + (final == 'P' and 4 or (final == 'X' or final == 'B') and 2 or 0)
  end
  settled = settled + 1
end
for other, _ in pairs(woken) do wake(other) end
return {settled, '', unpack(lost)}

--[[ script confirm: which of these fences the owner does not hold.
ARGV: owner, fence, ... ]]
local lost = {}
for i = 2, #ARGV do
  if redis.call('HEXISTS', KEYS[1] .. ':h:' .. ARGV[1], ARGV[i]) == 0 then lost[#lost + 1] = ARGV[i] end
end
return lost

--[[ script note: store what is known of a run on its way.
ARGV: owner, fence, then (key, data, ttl or '') of each record. Returns 0 where the owner does not hold the fence. ]]
if redis.call('HEXISTS', KEYS[1] .. ':h:' .. ARGV[1], ARGV[2]) == 0 then return 0 end
for i = 3, #ARGV, 3 do
  if ARGV[i + 2] == '' then
    redis.call('SET', ARGV[i], ARGV[i + 1])
  else
    redis.call('SET', ARGV[i], ARGV[i + 1], 'PX', ARGV[i + 2])
  end
  redis.call('PUBLISH', ARGV[i], ARGV[i + 1])
end
return 1

--[[ script commit: the runs of these fences begin now, and must not be repeated.
ARGV: owner, fence, ... Returns the fences that the owner does not hold. ]]
local held, lost = KEYS[1] .. ':h:' .. ARGV[1], {}
for i = 2, #ARGV do
  local entry = redis.call('HGET', held, ARGV[i])
  if entry then
    redis.call('HSET', held, ARGV[i], 'e' .. string.sub(entry, 2))
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost

--[[ script renew: lengthen leases, and keep house.
ARGV: lease, max_deliveries, owner, ... Returns the owners that have no lease here. ]]
local base, t = KEYS[1], now()
local lease, lost = tonumber(ARGV[1]), {}
for i = 3, #ARGV do
  if redis.call('ZSCORE', base .. ':o', ARGV[i]) then
    redis.call('ZADD', base .. ':o', t + lease, ARGV[i])
  else
    lost[#lost + 1] = ARGV[i]
  end
end
housekeep(base, t, lease, tonumber(ARGV[2]))
return lost

--[[ script surrender: end a lease now; what the owner held goes to others.
ARGV: owner, max_deliveries, number of casualties, then (key, JSON) of each, then (key, verdict) of each verdict.
Returns how many messages were held. ]]
local base, owner, max_deliveries, t = KEYS[1], ARGV[1], tonumber(ARGV[2]), now()
local casualties, verdicts = {}, {}
local i = 4
for _ = 1, tonumber(ARGV[3]) do
  casualties[ARGV[i]] = ARGV[i + 1]
  i = i + 2
end
while i <= #ARGV do
  verdicts[ARGV[i]] = ARGV[i + 1]
  i = i + 2
end
local entries = holding(base, owner)
for _, entry in ipairs(entries) do
  local class, message = string.sub(entry[2], 1, 1), string.sub(entry[2], 2)
  local key = string.sub(message, 2, 17)
  if verdicts[key] then
    redis.call('HSET', base .. ':v', key, verdicts[key])
    redis.call('RPUSH', base .. ':s', message)
  elseif casualties[key] then
    crash(base, t, class, message, casualties[key], max_deliveries)
  else
    give_back(base, class, message)
  end
end
end_lease(base, owner)
if ready(base) > 0 or redis.call('EXISTS', base .. ':d') == 1 then wake(base) end
return #entries

--[[ script revoke: remember revocations. What is taken from now on is looked up, so that nothing of it is delivered without
the verdict; `search` then finds what waits.
ARGV: for how long, then key and signal, or '-' where no run is to be ended; repeated.
Returns {how many are remembered now, class of each ready list that has messages, ..., "d" where some are delayed}. ]]
local base, t = KEYS[1], now()
forget_expired(base, t)
for i = 2, #ARGV, 2 do
  redis.call('ZADD', base .. ':r', 'GT', t + ARGV[1], ARGV[i])
  if ARGV[i + 1] ~= '-' then redis.call('HSET', base .. ':g', ARGV[i], ARGV[i + 1]) end
end
local reply = {redis.call('ZCARD', base .. ':r')}
for class in string.gmatch('s9876543210d', '.') do
  if redis.call('EXISTS', base .. ':' .. class) == 1 then reply[#reply + 1] = class end
end
return reply

--[[ script held: which of the remembered are in somebody's holding. Returns their keys. ]]
local base, keys, found = KEYS[1], {}, {}
for _, owner in ipairs(redis.call('ZRANGE', base .. ':o', 0, -1)) do
  for _, entry in ipairs(redis.call('HVALS', base .. ':h:' .. owner)) do keys[#keys + 1] = string.sub(entry, 3, 18) end
end
local scores = remembered(base, keys)
for i, key in ipairs(keys) do
  if scores[i] then found[#found + 1] = key end
end
return found

--[[ script search: look for the remembered among some messages that wait, the newest first, and judge them.
ARGV: class of a ready list or "d", where the last step ended or '', how many messages at most.
Returns {where this step ended or '' where nothing is left, key found, ...}.

A list is walked from its tail, by how many are behind: takes change the head only, a send makes us see some twice, and what
is moved leaves a hole; so nothing that stays there is missed. In the zset the place is the last member that was seen. ]]
local base, class, cursor, count, t = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), now()
local reply = {''}

local function key_of_delayed(member)
  local colon = string.find(member, ':', 2, true)
  return string.sub(member, colon + 2, colon + 17), string.sub(member, colon + 1)
end

local function search_list()
  local list = base .. ':' .. class
  local behind = tonumber(cursor) or 0
  local messages = redis.call('LRANGE', list, -behind - count, -behind - 1)
  local keys = {}
  for i = #messages, 1, -1 do keys[#keys + 1] = string.sub(messages[i], 2, 17) end
  local scores = remembered(base, keys)
  -- What a hole costs grows with its distance from the end of the list: a step is as long as its holes are cheap.
  local length = redis.call('LLEN', list)
  local distance = math.min(behind, math.max(0, length - behind))
  local cost, seen = 0, 0
  for i, key in ipairs(keys) do
    seen = i
    if scores[i] and scores[i] > t then
      local message = messages[#messages - i + 1]
      if class == 's' then
        local verdict = redis.call('HGET', base .. ':v', key)
        if not verdict then redis.call('HSET', base .. ':v', key, 'revoked') end
        if not verdict or string.sub(verdict, 1, 7) == 'revoked' then
          forget(base, key)
          reply[#reply + 1] = key
        end
      else
        redis.call('LSET', list, -(behind + i), HOLE)
        count_holes(base, class, 1)
        judge(base, key, message)
        reply[#reply + 1] = key
        cost = cost + 5 + distance / 5000
        if cost > 1500 then break end
      end
    end
  end
  if seen == count or seen < #keys then reply[1] = tostring(behind + seen) end
end

local function search_delayed()
  local keys, members = {}, nil
  members, reply[1] = last_due(base, cursor, count)
  for i, member in ipairs(members) do keys[i] = key_of_delayed(member) end
  local scores = remembered(base, keys)
  for i, key in ipairs(keys) do
    if scores[i] and scores[i] > t and not redis.call('HGET', base .. ':v', key) then
      local _, message = key_of_delayed(members[i])
      redis.call('ZREM', base .. ':d', members[i])
      judge(base, key, message)
      reply[#reply + 1] = key
    end
  end
end

if class == 'd' then search_delayed() else search_list() end
if #reply > 1 then wake(base) end
return reply

--[[ script ban: remember something for workers. Its key is <prefix>bans.
ARGV: for how long, what, how many are remembered at most. ]]
local t = now()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', t)
redis.call('ZADD', KEYS[1], 'GT', t + ARGV[1], ARGV[2])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -ARGV[3] - 1)
return 1

--[[ script subscribe: let a queue have copies. Its key is <prefix>s:<name>.
ARGV: for how long, queue. ]]
return redis.call('ZADD', KEYS[1], now() + ARGV[1], ARGV[2])

--[[ script lapsed: the queues whose time has been over for so long. Its key is <prefix>s:<name>.
ARGV: how long, then queues that have been deleted: these are forgotten, if they have not come back. ]]
local lapsed = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now() - ARGV[1])
local gone = {}
for i = 2, #ARGV do gone[ARGV[i]] = true end
for _, queue in ipairs(lapsed) do
  if gone[queue] then redis.call('ZREM', KEYS[1], queue) end
end
return lapsed

--[[ script delete: delete a queue with all that is in it, whoever holds it. ]]
local base = KEYS[1]
for _, owner in ipairs(redis.call('ZRANGE', base .. ':o', 0, -1)) do redis.call('UNLINK', base .. ':h:' .. owner) end
for letter in string.gmatch('0123456789sdoniafutpcvrgmxye', '.') do redis.call('UNLINK', base .. ':' .. letter) end
return 1

--[[ script bans: what is remembered so. Its key is <prefix>bans, or one like it. ]]
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now(), '+inf')

--[[ script find: messages that contain some bytes, among some that wait, or among all that is held.
ARGV: class of a ready list, "d", or "h" for what is held; where the last step ended or '', how many messages at most, the
bytes. Returns {where this step ended or '' where nothing is left, message, ...}. See `search` for what is not missed. ]]
local base, class, cursor, count = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local reply = {''}

local function look(message)
  if string.find(message, ARGV[4], 1, true) then reply[#reply + 1] = message end
end

if class == 'h' then
  for _, owner in ipairs(redis.call('ZRANGE', base .. ':o', 0, -1)) do
    for _, entry in ipairs(redis.call('HVALS', base .. ':h:' .. owner)) do look(string.sub(entry, 2)) end
  end
elseif class == 'd' then
  local members
  members, reply[1] = last_due(base, cursor, count)
  for _, member in ipairs(members) do look(string.sub(member, string.find(member, ':', 2, true) + 1)) end
else
  local behind = tonumber(cursor) or 0
  local messages = redis.call('LRANGE', base .. ':' .. class, -behind - count, -behind - 1)
  for i = #messages, 1, -1 do look(messages[i]) end
  if #messages == count then reply[1] = tostring(behind + count) end
end
return reply

--[[ script judged: which of these keys have the verdict `revoked`, found by somebody else or at their take.
ARGV: keys. Returns those keys. ]]
local found = {}
for i, verdict in ipairs(redis.call('HMGET', KEYS[1] .. ':v', unpack(ARGV))) do
  if verdict == 'revoked' then found[#found + 1] = ARGV[i] end
end
return found

--[[ script revoked: what is remembered. Returns {key, signal or '-', ...}, the soonest to be forgotten first. ]]
local base, reply = KEYS[1], {}
for _, key in ipairs(redis.call('ZRANGEBYSCORE', base .. ':r', '(' .. now(), '+inf')) do
  reply[#reply + 1] = key
  reply[#reply + 1] = '-'
end
if #reply > 0 and redis.call('EXISTS', base .. ':g') == 1 then
  for i = 1, #reply, 2 do reply[i + 1] = redis.call('HGET', base .. ':g', reply[i]) or '-' end
end
return reply

--[[ script shorten: remember no more than so many, and forget some of those above.
ARGV: how many. Returns how many are remembered now. ]]
local base = KEYS[1]
local above = redis.call('ZCARD', base .. ':r') - ARGV[1]
if above > 0 then
  for _, key in ipairs(redis.call('ZRANGE', base .. ':r', 0, math.min(above, 1000) - 1)) do forget(base, key) end
end
return redis.call('ZCARD', base .. ':r')

--[[ script stats: counts. Returns {ready, delayed, running, dead, paused, evicted, first message of each ready list, ...}. ]]
local base = KEYS[1]
local count, heads = 0, {}
local holes = redis.call('HGETALL', base .. ':m')
for i = 1, #holes, 2 do
  strip(base, holes[i])
  count = count - (redis.call('HGET', base .. ':m', holes[i]) or 0)
end
for class in string.gmatch('0123456789s', '.') do
  local name = base .. ':' .. class
  count = count + redis.call('LLEN', name)
  local head = redis.call('LINDEX', name, 0)
  if head and head ~= HOLE then heads[#heads + 1] = string.sub(head, 1, 17) end
end
local running = 0
for _, owner in ipairs(redis.call('ZRANGE', base .. ':o', 0, -1)) do
  running = running + redis.call('HLEN', base .. ':h:' .. owner)
end
return {count, redis.call('ZCARD', base .. ':d'), running, redis.call('ZCARD', base .. ':x'),
  redis.call('EXISTS', base .. ':p'), tonumber(redis.call('GET', base .. ':e') or 0), unpack(heads)}

--[[ script purge: delete what waits. Returns how many. ]]
local base = KEYS[1]
local count = redis.call('ZCARD', base .. ':d')
for _, message in ipairs(redis.call('LRANGE', base .. ':s', 0, -1)) do absolve(base, string.sub(message, 2, 17)) end
for class in string.gmatch('0123456789s', '.') do
  count = count + redis.call('LLEN', base .. ':' .. class)
  redis.call('UNLINK', base .. ':' .. class)
end
for _, holes in ipairs(redis.call('HVALS', base .. ':m')) do count = count - holes end
redis.call('UNLINK', base .. ':d', base .. ':m')
return count

--[[ script resume: end a pause and wake everybody. ]]
local base = KEYS[1]
redis.call('DEL', base .. ':p')
for _, owner in ipairs(redis.call('SMEMBERS', base .. ':i')) do
  redis.call('PUBLISH', 'celeriac.wake:' .. owner, base)
end
return 1

--[[ script dead: a page of dead letters, oldest first.
ARGV: key to begin behind or '', limit. Returns {key, value, ...}. ]]
local base, first = KEYS[1], 0
if ARGV[1] ~= '' then
  local rank = redis.call('ZRANK', base .. ':x', ARGV[1])
  if rank then first = rank + 1 end
end
local page = {}
for _, key in ipairs(redis.call('ZRANGE', base .. ':x', first, first + ARGV[2] - 1)) do
  page[#page + 1] = key
  page[#page + 1] = redis.call('HGET', base .. ':y', key) or ''
end
return page

--[[ script replay: send dead letters again, and forget their results.
ARGV: prefix of results, or '' where they are elsewhere; then keys. Returns how many were there. ]]
local base, count = KEYS[1], 0
for i = 2, #ARGV do
  local key = ARGV[i]
  local value = redis.call('HGET', base .. ':y', key)
  if value then
    local class = string.sub(value, 1, 1)
    local first = string.find(value, '\n', 1, true)
    local second = string.find(value, '\n', first + 1, true)
    local message = string.sub(value, second + 1)
    absolve(base, string.sub(message, 2, 17))
    if ARGV[1] ~= '' then redis.call('UNLINK', ARGV[1] .. string.sub(message, 2, 17)) end
    redis.call('HDEL', base .. ':y', key)
    redis.call('ZREM', base .. ':x', key)
    redis.call('RPUSH', base .. ':' .. (tonumber(class) and class or '0'), message)
    count = count + 1
  end
end
if count > 0 then wake(base) end
return count

--[[ script drop: delete dead letters.
ARGV: keys. Returns how many were there. ]]
local base, count = KEYS[1], 0
for _, key in ipairs(ARGV) do
  count = count + redis.call('ZREM', base .. ':x', key)
  redis.call('HDEL', base .. ':y', key)
end
return count

--[[ script prune_dead: delete dead letters that are too old; or where there are none, too many. The oldest first.
ARGV: how many may stay or '', how old they may be or '', limit. The time of death is read of what goes, and of the one
behind it. Returns {number too old, number too many, key of the first, 1 where more are to go}. ]]
local base, limit, t = KEYS[1], tonumber(ARGV[3]), now()
local surplus = ARGV[1] == '' and 0 or redis.call('ZCARD', base .. ':x') - ARGV[1]

local function is_old(key)
  if ARGV[2] == '' then return false end
  local value = redis.call('HGET', base .. ':y', key) or ''
  local ends = string.find(value, '\n', 1, true)
  return not ends or t - cjson.decode(string.sub(value, 2, ends - 1)).at * 1000 > tonumber(ARGV[2])
end

local gone, oldest, first_is_old, more = 0, '', false, 0
while true do
  local key = redis.call('ZRANGE', base .. ':x', 0, 0)[1]
  local old = key and is_old(key)
  if not key or (not old and gone >= surplus) then break end
  if gone == 0 then oldest, first_is_old = key, old end
  if gone == limit or old ~= first_is_old then
    more = 1
    break
  end
  redis.call('ZREM', base .. ':x', key)
  redis.call('HDEL', base .. ':y', key)
  gone = gone + 1
end
if gone > 0 then redis.call('INCRBY', base .. ':e', gone) end
return {first_is_old and gone or 0, first_is_old and 0 or gone, oldest, more}
