--[[
Joins, for the result store's scripts and for settlements.

  <prefix>j:<key>    hash    m -> JSON header, newline, message: what is sent when all have come
                             s -> how many are waited for; '' while that is not known
                             f -> the place that came last, once all have come; '-' when they had come before s was known
                             0, 1, 2, ... -> the result of that place
]]

-- The message of a join, as it is to be sent now: queue, class, delay or '', message.
local function join_message(stored)
  local newline = string.find(stored, '\n', 1, true)
  local header = cjson.decode(string.sub(stored, 1, newline - 1))
  local delay = header.delay or ''
  if header.due then
    local t = redis.call('TIME')
    delay = math.max(0, header.due - (t[1] * 1000 + math.floor(t[2] / 1000)))
  end
  return {header.queue, header.class, delay, string.sub(stored, newline + 1)}
end

-- Begin a join, unless it is there. `due`: milliseconds from now, or ''. Returns whether it is new.
local function open_join(name, size, queue, class, due, delay, message, lifetime)
  if redis.call('EXISTS', name) == 1 then return 0 end
  local header = {queue = queue, class = class}
  if delay ~= '' then
    header.delay = tonumber(delay)
  elseif due ~= '' then
    local t = redis.call('TIME')
    header.due = t[1] * 1000 + math.floor(t[2] / 1000) + due
  end
  redis.call('HSET', name, 'm', cjson.encode(header) .. '\n' .. message, 's', size)
  redis.call('PEXPIRE', name, lifetime)
  return 1
end

-- A result comes to a join. Returns the join's message where it is complete by that, else nil; and `again` when the one
-- by which it was complete comes once more.
local function arrive(name, place, data, again)
  local join = redis.call('HMGET', name, 'm', 's', 'f')
  if not join[1] then return nil end
  redis.call('HSETNX', name, place, data)
  if join[3] then return again and join[3] == place and join_message(join[1]) or nil end
  if redis.call('HLEN', name) - 2 ~= tonumber(join[2]) then return nil end
  redis.call('HSET', name, 'f', place)
  return join_message(join[1])
end
