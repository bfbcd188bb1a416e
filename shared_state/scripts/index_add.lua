-- Add a member to an index in order of time, and drop what is over its bound.
-- KEYS  1 index
-- ARGV  1 member   2 bound   3 life, ms
-- reply how many it holds
redis.call('ZADD', KEYS[1], 0, ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return redis.call('ZCARD', KEYS[1])
