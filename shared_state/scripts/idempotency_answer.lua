-- Keep the answer to a request under a key. Safe to repeat; another holder's claim is left alone.
-- KEYS  1 claim
-- ARGV  1 holder   2 status   3 body   4 life from now on, ms
-- reply 1 if the claim was the holder's, else 0
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'status', ARGV[2], 'body', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
