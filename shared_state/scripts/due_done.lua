-- What was taken has been dealt with, unless it became due at another time meanwhile.
-- KEYS  1 due
-- ARGV  1 member   2 when it is due again as it was taken, ms
-- reply 1 if removed, else 0
if redis.call('ZSCORE', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
