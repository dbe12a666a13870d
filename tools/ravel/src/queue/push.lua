-- Pushes jobs that were not pushed before.
-- KEYS: queue, notify, pushed. ARGV: seconds to remember, how many to forget, those, then a name and a job each.
-- Returns how many were pushed.

local forget = tonumber(ARGV[2])
for at = 3, forget + 2 do
	redis.call('SREM', KEYS[3], ARGV[at])
end
local pushed = 0
for at = forget + 3, #ARGV, 2 do
	if redis.call('SISMEMBER', KEYS[3], ARGV[at]) == 0 then
		-- In this order: where memory runs out in between, a job is there twice, not never.
		redis.call('RPUSH', KEYS[1], ARGV[at + 1])
		redis.call('RPUSH', KEYS[2], '1')
		redis.call('SADD', KEYS[3], ARGV[at])
		pushed = pushed + 1
	end
end
-- Also where all were there already: a write that a WAITAOF behind it can wait for.
redis.call('EXPIRE', KEYS[3], ARGV[1])
return pushed
