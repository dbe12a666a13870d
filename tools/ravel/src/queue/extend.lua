-- Has a reservation hold for longer. KEYS: reserved. ARGV: the job as it is reserved, seconds from now.
-- Returns 1, or 0 where it holds no more.

if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
	return 0
end
redis.call('ZADD', KEYS[1], now() + tonumber(ARGV[2]), ARGV[1])
return 1
