-- Renew a node's lease, by the clock of Redis.
-- KEYS  1 leases   2 this node's info
-- ARGV  1 node id  2 lease, ms   3 info (JSON)   4 life of the lease set, ms
-- reply {1 if the lease was still held else 0, live node ids, node ids whose lease has ended, now, ms}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
local held = 0
if score and tonumber(score) > now then held = 1 end
-- A write that takes no memory comes first: after it Redis lets a script go on to its end although memory is short (see
-- docs/REDIS.md). The lease of a node is to outlive whatever filled Redis.
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[2])
local live = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
local dead = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)
return {held, live, dead, now}
