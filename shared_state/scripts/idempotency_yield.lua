-- Let the next request under the key go on with the attempt at once: how far it came is not known. Safe to repeat.
-- KEYS  1 claim
-- ARGV  1 holder
-- reply 1 if the claim was the holder's, else 0
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'until_ms', '0')
return 1
