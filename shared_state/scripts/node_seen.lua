-- Note when clients of a node were last heard, of those that are on its list.
-- Three commands, however many clients: what a script calls costs Redis as much as what a client sends.
-- KEYS  1 the node's clients
-- ARGV  1 client id   2 when it was heard, ms   3.. id, ms, ... of others: 1,000 clients in all at most
-- reply how many were noted
-- Removes nothing, and takes no memory: after it the rest is written although memory is short (docs/REDIS.md).
redis.call('HDEL', KEYS[1], '')
local ids = {}
for i = 1, #ARGV, 2 do ids[#ids + 1] = ARGV[i] end
local noted = {}
for i, listed in ipairs(redis.call('HMGET', KEYS[1], unpack(ids))) do
  if listed then
    noted[#noted + 1] = ids[i]
    noted[#noted + 1] = ARGV[2 * i]
  end
end
if #noted > 0 then redis.call('HSET', KEYS[1], unpack(noted)) end
return #noted / 2
