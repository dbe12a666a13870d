-- A worker's turn: ends jobs that are done, moves due ones to the queue, and reserves the next.
-- KEYS: queue, delayed, reserved, notify, serial. ARGV: seconds to reserve them for, how many delayed ones to move at
-- most, 1 if a token of notify was taken for the next already, how many to take at most, from how many bytes on no more
-- are taken, how many the worker has that are not done, the worker's mark, then the jobs that are done as they are
-- reserved.
-- Returns the places, among those that are done, of those whose reservation does not hold; of each job taken its text,
-- as it is reserved, and its attempts (-1 where it is no job); and where none is ready, the seconds until the next is due
-- (-1 where none is).
-- Takes time for what it moves, however long the queue is.

local seconds, chunk, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local bytes, others, worker = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
if not (seconds and chunk and most and bytes and others and worker) then
	return BAD_ARGUMENTS
end
local wrong = wrong_kind({'list', 'zset', 'zset', 'list', 'string'})
if wrong then
	return wrong
end
if not tonumber(redis.call('GET', KEYS[5]) or 0) then
	return redis.error_reply('WRONGTYPE ' .. KEYS[5] .. ' holds no number')
end

local missed = {}
for at = 8, #ARGV do
	if redis.call('ZREM', KEYS[3], ARGV[at]) == 0 then
		missed[#missed + 1] = at - 7
	end
end
if most == 0 then
	return {missed, {}, -1}
end

local time = now()
local until_when = time + seconds
local due = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', time, 'LIMIT', 0, chunk)
if #due > 0 then
	local tokens = {}
	for at = 1, #due do
		tokens[at] = '1'
	end
	redis.call('RPUSH', KEYS[1], unpack(due))
	redis.call('RPUSH', KEYS[4], unpack(tokens))
	redis.call('ZREM', KEYS[2], unpack(due))
end

-- One that was lost with its worker is reserved anew from where it is. It is taken alone: were it to end its worker again,
-- others would be lost with it. Who has others finishes them first.
local lost = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', time, 'LIMIT', 0, 1)[1]
if lost and others > 0 then
	return {missed, {}, 0}
end
if lost then
	local raised, attempts = add(lost, 'attempts', 1)
	raised = mark(raised, worker, redis.call('INCR', KEYS[5]))
	redis.call('ZADD', KEYS[3], until_when, raised)
	redis.call('ZREM', KEYS[3], lost)
	return {missed, {raised, attempts or -1}, -1}
end

local function wait(set)
	local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')[2]
	return first and math.max(math.ceil(tonumber(first) - time), 0)
end

most = math.min(most, redis.call('LLEN', KEYS[1]))
if most == 0 then
	redis.call('DEL', KEYS[4])
	local delayed, reserved = wait(KEYS[2]), wait(KEYS[3])
	return {missed, {}, math.min(delayed or reserved or -1, reserved or delayed or -1)}
end
local last = redis.call('INCRBY', KEYS[5], most)
local taken, reserve, count, full = {}, {}, 0, false
while count < most and not full do
	-- As many as before again: where they are large, few are looked at in vain.
	local jobs = redis.call('LRANGE', KEYS[1], count, math.min(2 * count, most - 1))
	for _, job in ipairs(jobs) do
		local raised, attempts = add(job, 'attempts', 1)
		-- One that another make of worker has moved back here when its worker was lost.
		local alone = attempts and attempts > 1 and attempts - 1 > (number(job, 'failures') or 0)
		full = alone and count + others > 0
		if full then
			break
		end
		count = count + 1
		raised = mark(raised, worker, last - most + count)
		taken[2 * count - 1], taken[2 * count] = raised, attempts or -1
		reserve[2 * count - 1], reserve[2 * count] = until_when, raised
		bytes = bytes - #raised
		full = alone or bytes <= 0
		if full then
			break
		end
	end
end
if count > 0 then
	redis.call('ZADD', KEYS[3], unpack(reserve))
	redis.call('LTRIM', KEYS[1], count, -1)
	redis.call('LTRIM', KEYS[4], ARGV[3] == '1' and count - 1 or count, -1)
end
return {missed, taken, -1}
