-- Put a message into the inbox of a client that is registered or away, and wake the node that holds its socket.
-- Safe to repeat: a message is known by the session that it starts, or by its id.
-- KEYS  1 registration   2 inbox   3 active sessions   4 the client's newest sessions   5 mark of a posted message
-- ARGV  1 client id   2 message   3 bound of the inbox   4 life of the inbox, ms   5 channel prefix ('' = the caller publishes)
--       6 session id ('' = the message starts no session)   7 its deadline, ms   8 entry for the newest sessions
--       9 life of the newest, ms   10 life of the mark, ms ('' = no mark)   11 '1' = also for a client that nobody knows
--       12 bound of the active sessions   13 now, ms: those whose deadline is over do not count
-- reply {1, node id ('' = nobody holds the client now), entry id ('' = it was posted before), receivers};
--       {-5} not registered; {-1} the inbox is full; {-2} too many active sessions
-- uses: _bounds
-- uses: _memory
local there = redis.call('HMGET', KEYS[1], 'node_id', 'generation')
local node = there[1] or ''
if not there[2] and ARGV[11] ~= '1' then return {-5} end
-- Whatever is repeated is repeated soon.
if ARGV[6] ~= '' and redis.call('LPOS', KEYS[4], ARGV[8], 'RANK', -1, 'MAXLEN', 100) then return {1, node, '', 1} end
-- Where the set is not empty, the member that keeps it (shared_state/keys.py) counts, too.
if ARGV[6] ~= '' and redis.call('ZCOUNT', KEYS[3], ARGV[13], '+inf') > tonumber(ARGV[12]) then return {-2} end
if redis.call('XLEN', KEYS[2]) >= tonumber(ARGV[3]) then return {-1} end
-- What starts nothing is news of what is under way. It removes nothing, and takes no memory: after it the rest is written
-- although memory is short (docs/REDIS.md).
if ARGV[6] == '' and #ARGV[2] <= SMALL_BYTES then redis.call('HDEL', KEYS[1], '') end
if ARGV[10] ~= '' and not redis.call('SET', KEYS[5], '1', 'NX', 'PX', ARGV[10]) then return {1, node, '', 1} end
local id = redis.call('XADD', KEYS[2], '*', 'm', ARGV[2])
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[2], ARGV[4]) end
if ARGV[6] ~= '' then
  redis.call('ZADD', KEYS[3], '9007199254740991', '', ARGV[7], ARGV[6])
  local life = ARGV[7] - ARGV[13] + ACTIVE_SLACK_MS
  if redis.call('PTTL', KEYS[3]) < life then redis.call('PEXPIRE', KEYS[3], life) end
  local listed = redis.call('RPUSH', KEYS[4], ARGV[8])
  if listed > 1.1 * NEWEST_BOUND then redis.call('LTRIM', KEYS[4], -NEWEST_BOUND, -1) end
  redis.call('PEXPIRE', KEYS[4], ARGV[9])
end
local receivers = 0
if node ~= '' and ARGV[5] ~= '' then
  receivers = redis.call('PUBLISH', ARGV[5] .. node, 'inbox\n' .. ARGV[1] .. '\n' .. id .. '\n' .. ARGV[2])
end
return {1, node, id, receivers}
