-- Which nodes hold a lease now, by the clock of Redis.
-- KEYS  1 leases
-- reply live node ids
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
