-- Note when clients of a node were last heard, of those that are on its list.
-- KEYS  1 the node's clients
-- ARGV  1 life of the list, s   2.. client id, ms, ...
-- reply how many were noted
local noted = 0
for i = 2, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    noted = noted + 1
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return noted
