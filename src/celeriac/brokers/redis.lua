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
  base:f             string  the last fence number given out; also numbers delayed members and dead letters
  base:t             string  when housekeeping was last done
  base:l:<name>      string  the number of the last send over the connection of that name; "!" after a lost answer; for a
                             minute
  base:p             string  there while the queue is paused
  base:c             hash    key -> JSON list of casualties, for messages with crashes behind them
  base:v             hash    key -> verdict, for messages whose end is decided
  base:x             zset    dead letters: score = a growing number, member = key
  base:y             hash    key -> class, JSON header, newline, message; for each dead letter
  <prefix>queues     set     names of all queues

A class is one character: a priority, "s" for a suspect or, in a holding only, "e" for a message that has been
committed: its run has begun and must not be repeated. A key is the message's id, bytes 2 to 17. The channel
`celeriac.wake:<owner>` carries the base name of a queue to look at.
]]

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

-- Store one message: ready when delay is '', else due so many milliseconds from now. Wakes nobody when ready: the caller
-- does, once.
local function store(base, class, delay, message)
  if delay == '' then
    redis.call('RPUSH', base .. ':' .. class, message)
    return
  end
  local member = class .. redis.call('INCR', base .. ':f') .. ':' .. message
  redis.call('ZADD', base .. ':d', now() + delay, member)
  if redis.call('ZRANK', base .. ':d', member) == 0 then wake(base) end
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

local function ready(base)
  return redis.call('EXISTS', base .. ':0', base .. ':1', base .. ':2', base .. ':3', base .. ':4', base .. ':5',
    base .. ':6', base .. ':7', base .. ':8', base .. ':9', base .. ':s')
end

local function bury(base, t, class, message, reason, detail, casualties)
  local key = string.sub(message, 2, 17)
  if #key < 16 or redis.call('HEXISTS', base .. ':y', key) == 1 then
    key = string.sub(redis.sha1hex(message .. redis.call('INCR', base .. ':f')), 1, 16)
  end
  local header = cjson.encode({reason = reason, detail = detail, at = t / 1000})
  redis.call('ZADD', base .. ':x', redis.call('INCR', base .. ':f'), key)
  redis.call('HSET', base .. ':y', key, class .. header .. '\n' .. (casualties or '[]') .. '\n' .. message)
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

-- Add a casualty (JSON text) to a message, and make it a suspect or a dead letter.
local function crash(base, t, class, message, casualty, max_deliveries)
  if class == 'e' then return give_back(base, class, message, cjson.decode(casualty).cause) end
  local key = string.sub(message, 2, 17)
  local known = redis.call('HGET', base .. ':c', key)
  local list = known and (string.sub(known, 1, -2) .. ',' .. casualty .. ']') or ('[' .. casualty .. ']')
  if #cjson.decode(list) >= max_deliveries then
    local cause = cjson.decode(casualty).cause
    bury(base, t, class, message, 'crashed', 'its process died ' .. max_deliveries .. ' times, last by ' .. cause, list)
    absolve(base, key)
  else
    redis.call('HSET', base .. ':c', key, list)
    local crashes = #cjson.decode(list)
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
if redis.call('EXISTS', base .. ':p') == 1 then
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

local suspect = redis.call('LPOP', base .. ':s')
if suspect then
  local fence = redis.call('INCR', base .. ':f')
  local key = string.sub(suspect, 2, 17)
  redis.call('HSET', base .. ':h:' .. owner, fence, 's' .. suspect)
  local crashes = redis.call('HGET', base .. ':c', key)
  leave_the_bench()
  return {-fence, suspect, crashes and #cjson.decode(crashes) or 0, redis.call('HGET', base .. ':v', key) or ''}
end

local reply, fields = {0}, {}
local high = redis.call('EXISTS', base .. ':1', base .. ':2', base .. ':3', base .. ':4', base .. ':5', base .. ':6',
  base .. ':7', base .. ':8', base .. ':9')
for class = (high > 0 and 9 or 0), 0, -1 do
  local messages = redis.call('LPOP', base .. ':' .. class, limit - #reply + 1)
  if messages then
    for _, message in ipairs(messages) do
      reply[#reply + 1] = message
      fields[#fields + 1] = 0
      fields[#fields + 1] = class .. message
    end
    if #reply > limit then break end
  end
end
if #fields > 0 then
  local first = redis.call('INCRBY', base .. ':f', #fields / 2) - #fields / 2 + 1
  reply[1] = first
  for i = 1, #fields, 2 do fields[i] = first + (i - 1) / 2 end
  for i = 1, #fields, 2000 do
    redis.call('HSET', base .. ':h:' .. owner, unpack(fields, i, math.min(i + 1999, #fields)))
  end
  leave_the_bench()
  return reply
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
  F fence nr ns records sends final   the general form: records are (key, data, ttl or ''), sends are (base, class, delay or
                                 '', message), final is one of: A | R | X reason detail | B delay message |
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
    i = i + 4
    if not entry then lost[#lost + 1] = fence end
    for _ = 1, records do
      if entry then
        local reply
        if ARGV[i + 2] == '' then
          reply = redis.pcall('SET', ARGV[i], ARGV[i + 1])
        else
          reply = redis.pcall('SET', ARGV[i], ARGV[i + 1], 'PX', ARGV[i + 2])
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
          store(base, class, ARGV[i], ARGV[i + 1])
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

--[[ script stats: counts. Returns {ready, delayed, running, dead, paused, first message of each ready list, ...}. ]]
local base = KEYS[1]
local count, heads = 0, {}
for class in string.gmatch('0123456789s', '.') do
  local name = base .. ':' .. class
  count = count + redis.call('LLEN', name)
  local head = redis.call('LINDEX', name, 0)
  if head then heads[#heads + 1] = string.sub(head, 1, 17) end
end
local running = 0
for _, owner in ipairs(redis.call('ZRANGE', base .. ':o', 0, -1)) do
  running = running + redis.call('HLEN', base .. ':h:' .. owner)
end
return {count, redis.call('ZCARD', base .. ':d'), running, redis.call('ZCARD', base .. ':x'),
  redis.call('EXISTS', base .. ':p'), unpack(heads)}

--[[ script purge: delete what waits. Returns how many. ]]
local base = KEYS[1]
local count = redis.call('ZCARD', base .. ':d')
for _, message in ipairs(redis.call('LRANGE', base .. ':s', 0, -1)) do absolve(base, string.sub(message, 2, 17)) end
for class in string.gmatch('0123456789s', '.') do
  count = count + redis.call('LLEN', base .. ':' .. class)
  redis.call('UNLINK', base .. ':' .. class)
end
redis.call('UNLINK', base .. ':d')
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

--[[ script replay: send dead letters again.
ARGV: keys. Returns how many were there. ]]
local base, count = KEYS[1], 0
for _, key in ipairs(ARGV) do
  local value = redis.call('HGET', base .. ':y', key)
  if value then
    local class = string.sub(value, 1, 1)
    local first = string.find(value, '\n', 1, true)
    local second = string.find(value, '\n', first + 1, true)
    local message = string.sub(value, second + 1)
    absolve(base, string.sub(message, 2, 17))
    redis.call('HDEL', base .. ':y', key)
    redis.call('ZREM', base .. ':x', key)
    redis.call('RPUSH', base .. ':' .. (class == 's' and '0' or class), message)
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
