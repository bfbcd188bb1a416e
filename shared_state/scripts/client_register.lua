-- Register a connection as the holder of a client id, unless another connection holds it.
-- KEYS  1 registration
-- ARGV  1 connection id   2 connection id that may be replaced ('' = none)   3 life, ms   4.. field, value, ...
-- reply {1} registered (also when this connection already was), or {0, node id, connection id} of the holder
local holder = redis.call('HMGET', KEYS[1], 'connection_id', 'node_id')
if holder[1] and holder[1] ~= ARGV[1] and holder[1] ~= ARGV[2] then
  return {0, holder[2] or '', holder[1]}
end
if holder[1] and holder[1] ~= ARGV[1] then redis.call('DEL', KEYS[1]) end
redis.call('HSET', KEYS[1], 'connection_id', ARGV[1], unpack(ARGV, 4))
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return {1}
