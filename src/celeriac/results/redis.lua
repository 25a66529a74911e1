--[[ script open_join: begin a join, unless it is there.
KEYS[1]: its name. ARGV: size or '', queue, class, due (milliseconds from now) or '', delay or '', message, lifetime. ]]
return open_join(KEYS[1], unpack(ARGV))

--[[ script size_join: say how many a join waits for.
KEYS[1]: its name. ARGV: size. Returns its message if all have come, else nothing. ]]
local message = redis.call('HGET', KEYS[1], 'm')
if not message then return {} end
redis.call('HSET', KEYS[1], 's', ARGV[1])
if redis.call('HGET', KEYS[1], 'f') == '-' then return join_message(message) end
if redis.call('HLEN', KEYS[1]) - 2 ~= tonumber(ARGV[1]) then return {} end
redis.call('HSET', KEYS[1], 'f', '-')
return join_message(message)

--[[ script grow_join: let a join wait for one more.
KEYS[1]: its name. Returns the new place, or -1. ]]
local join = redis.call('HMGET', KEYS[1], 's', 'f')
if not join[1] or join[1] == '' or join[2] then return -1 end
return redis.call('HINCRBY', KEYS[1], 's', 1) - 1

--[[ script arrive: a result comes to a join.
KEYS[1]: its name. ARGV: place, data. Returns the join's message if it is complete by that, else nothing. ]]
return arrive(KEYS[1], ARGV[1], ARGV[2], true) or {}
