-- After a write that takes no memory, Redis lets a script go on to its end although memory is short (docs/REDIS.md). A script
-- that stores no more than this makes such a write first; a larger one stays subject to Redis' bound.
local SMALL_BYTES = 65536
