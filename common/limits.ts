/** Sizes, times and the default limits that more than one part shares. Limits of one part stand beside their use. */

export const KIB = 1024
export const MIB = 1024 * KIB
export const GIB = 1024 * MIB

export const SECOND_MS = 1_000
export const MINUTE_MS = 60 * SECOND_MS
export const HOUR_MS = 60 * MINUTE_MS
export const DAY_MS = 24 * HOUR_MS

/** The largest WebSocket message either side takes. Above a batch of the largest record with room for its frame. */
export const MAX_FRAME_BYTES = 16 * MIB
/** The largest record a topic takes unless it says otherwise. */
export const MAX_RECORD_BYTES = 1 * MIB
/** Silence after which a side sends a ping: short enough to keep mobile NAT entries alive. */
export const HEARTBEAT_MS = 20 * SECOND_MS
/** Silence after which a connection counts as dead: three heartbeats. */
export const DEAD_MS = 3 * HEARTBEAT_MS
/** Kafka's own bound, so that names travel to Kafka clients unchanged. */
export const MAX_TOPIC_NAME_LENGTH = 249
/** A config or token file above this is no such file. */
export const MAX_CONFIG_FILE_BYTES = 1 * MIB
/** Above it the many lanes of one edge would cost more than they bring; Kafka topics rarely have more partitions. */
export const MAX_LANES = 1_024
