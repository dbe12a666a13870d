-- Gives jobs back as if they had not been taken, to the front of the queue. KEYS: queue, reserved, notify. ARGV: the
-- jobs as they are reserved, in their order. One that another has stays his.

for at = #ARGV, 1, -1 do
	if redis.call('ZSCORE', KEYS[2], ARGV[at]) then
		redis.call('LPUSH', KEYS[1], (add(ARGV[at], 'attempts', -1)))
		redis.call('LPUSH', KEYS[3], '1')
		redis.call('ZREM', KEYS[2], ARGV[at])
	end
end
