-- Store a new session and put its task into the inbox of its device; wake the node that holds the device's socket.
-- Safe to repeat: the session is known by its id, which nobody else uses.
-- KEYS  1 registration   2 inbox   3 active sessions   4 the client's newest sessions   5 session
-- ARGV  1 client id   2 message   3 bound of the inbox   4 life of the inbox, ms   5 channel prefix ('' = the caller publishes)
--       6 session id   7 its deadline, ms   8 life of the set of active sessions, ms   9 member for the newest sessions
--       10 their bound   11 life of the session, and of the newest, ms   12 '1' = also for a client that nobody knows
--       13 bound of the active sessions   14 now, ms: those whose deadline is over do not count
--       15 generation that the caller takes the client to be in ('' = it does not matter)   16 features likewise
--       17.. field, value, ... of the session
-- reply {1, node id ('' = nobody holds the client now), entry id ('' = it was started before), receivers};
--       {0} not registered; {-1} the inbox is full; {-2} too many active sessions; {-3} the client is not what the caller
--       takes it to be
local there = redis.call('HMGET', KEYS[1], 'node_id', 'generation', 'features')
local node = there[1] or ''
if not there[2] and ARGV[12] ~= '1' then return {0} end
if redis.call('EXISTS', KEYS[5]) == 1 then return {1, node, '', 1} end
if ARGV[15] ~= '' and (there[2] ~= ARGV[15] or there[3] ~= ARGV[16]) then return {-3} end
if redis.call('ZCOUNT', KEYS[3], ARGV[14], '+inf') >= tonumber(ARGV[13]) then return {-2} end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[3]) then return {-1} end
redis.call('HSET', KEYS[5], 'state', 'created', unpack(ARGV, 17))
redis.call('PEXPIRE', KEYS[5], ARGV[11])
local id = redis.call('XADD', KEYS[2], '*', 'm', ARGV[2])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end
redis.call('ZADD', KEYS[3], ARGV[7], ARGV[6])
if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[8]) then redis.call('PEXPIRE', KEYS[3], ARGV[8]) end
if redis.call('ZADD', KEYS[4], 0, ARGV[9]) == 1 then redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -1 - tonumber(ARGV[10])) end
redis.call('PEXPIRE', KEYS[4], ARGV[11])
local receivers = 0
if node ~= '' and ARGV[5] ~= '' then
  receivers = redis.call('PUBLISH', ARGV[5] .. node, 'inbox\n' .. ARGV[1] .. '\n' .. id .. '\n' .. ARGV[2])
end
return {1, node, id, receivers}
