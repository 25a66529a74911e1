--[[
Scripts that move messages to another broker, behind the common part of redis.lua, which describes the keys.

A message of a crate is five words: its class, or "x" for a dead letter; when it is due (ms), or the letter's key, or '';
the message, or the letter's value in base:y; its casualties as JSON, or ''; its verdict, or ''.
]]

--[[ script pack: take messages out of the queue into its crate: of those that are ready, or delayed, or dead.
ARGV: target, the queue's series if it has none, how many, how many bytes.
Returns {target, series, number, five words of each message, ...} of the crate, or of the one that is still open; {} with
nothing to take; or {0} where there is more to look through than should be done at once. ]]
local base, count, bytes = KEYS[1], tonumber(ARGV[3]), tonumber(ARGV[4])

local function crate()
  local reply = redis.call('HMGET', base .. ':q', 'target', 'series', 'number')
  for i, word in ipairs(redis.call('LRANGE', base .. ':k', 0, -1)) do reply[i + 3] = word end
  return reply
end
if redis.call('EXISTS', base .. ':k') == 1 then return crate() end

local taken, looks = 0, 0
local function has_room() return taken < count and bytes > 0 end
local function add(class, due_or_key, message, casualties, verdict)
  redis.call('RPUSH', base .. ':k', class, due_or_key, message, casualties or '', verdict or '')
  taken, bytes = taken + 1, bytes - #message
end
local function add_message(class, due, message)
  if class ~= 's' then return add(class, due, message) end
  local key = string.sub(message, 2, 17)
  add(class, due, message, redis.call('HGET', base .. ':c', key), redis.call('HGET', base .. ':v', key))
  absolve(base, key)
end

for class in string.gmatch('s9876543210', '.') do
  if redis.call('HEXISTS', base .. ':m', class) == 1 then strip(base, class) end
  while has_room() do
    local message = redis.call('LPOP', base .. ':' .. class)
    if not message then break end
    looks = looks + 1
    if message ~= HOLE then add_message(class, '', message) else count_holes(base, class, -1) end
    if looks > 10000 then count = taken end
  end
end
if taken == 0 and looks > 10000 then return {0} end

if taken == 0 then
  while has_room() do
    local first = redis.call('ZPOPMIN', base .. ':d')
    if #first == 0 then break end
    local colon = string.find(first[1], ':', 2, true)
    add_message(string.sub(first[1], 1, 1), first[2], string.sub(first[1], colon + 1))
  end
end

if taken == 0 then
  while has_room() do
    local key = redis.call('ZPOPMIN', base .. ':x')[1]
    if not key then break end
    local value = redis.call('HGET', base .. ':y', key)
    if value then add('x', key, value) end
    redis.call('HDEL', base .. ':y', key)
  end
end

if taken == 0 then return {} end
if redis.call('HEXISTS', base .. ':q', 'series') == 0 then redis.call('HSET', base .. ':q', 'series', ARGV[2]) end
redis.call('HSET', base .. ':q', 'target', ARGV[1])
redis.call('HINCRBY', base .. ':q', 'number', 1)
return crate()

--[[ script unpack: store the messages of another place's crate, unless that has been done.
ARGV: series, number, five words of each message. Returns whether it was new. ]]
local base, t = KEYS[1], now()
local last, number = tonumber(redis.call('HGET', base .. ':j', ARGV[1]) or 0), tonumber(ARGV[2])
-- Written again if it is known, so that who waits for replicas waits for what was written first.
if last <= number then redis.call('HSET', base .. ':j', ARGV[1], number) end
if last >= number then return 0 end
for i = 3, #ARGV, 5 do
  local class, due_or_key, message = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if class == 'x' then
    add_dead(base, due_or_key, message)
  else
    local key = string.sub(message, 2, 17)
    if ARGV[i + 3] ~= '' then redis.call('HSET', base .. ':c', key, ARGV[i + 3]) end
    if ARGV[i + 4] ~= '' then redis.call('HSET', base .. ':v', key, ARGV[i + 4]) end
    if due_or_key ~= '' and tonumber(due_or_key) > t then
      put_off(base, class, due_or_key, message)
    else
      redis.call('RPUSH', base .. ':' .. class, message)
    end
  end
end
wake(base)
return 1

--[[ script discard: the crate is stored elsewhere.
ARGV: series, number. ]]
local crate = redis.call('HMGET', KEYS[1] .. ':q', 'series', 'number')
if crate[1] == ARGV[1] and crate[2] == ARGV[2] then redis.call('UNLINK', KEYS[1] .. ':k') end
return 1
