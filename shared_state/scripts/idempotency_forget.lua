-- Forget a claim whose request was refused and left nothing behind. Safe to repeat.
-- KEYS  1 claim
-- ARGV  1 holder
-- reply 1 if the claim was the holder's, else 0
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
return 1
