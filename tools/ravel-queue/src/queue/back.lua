-- Gives jobs back as if they had not been taken, to the front of the queue. KEYS: queue, reserved, notify. ARGV: the
-- jobs as they are reserved, in their order. One whose reservation does not hold stays where it is.

local wrong = wrong_kind({'list', 'zset', 'list'})
if wrong then
	return wrong
end
for at = #ARGV, 1, -1 do
	if redis.call('ZREM', KEYS[2], ARGV[at]) == 1 then
		redis.call('LPUSH', KEYS[1], (add(ARGV[at], 'attempts', -1)))
		redis.call('LPUSH', KEYS[3], '1')
	end
end
