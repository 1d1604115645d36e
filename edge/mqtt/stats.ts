/** What the MQTT side counts. */

/** Counters that the parts of the broker raise. */
export interface MqttCounters {
  /** PUBLISH packets received, by QoS, resends included. */
  published: [number, number, number]
  /** Records and messages taken durably. */
  durable: number
  /** PUBLISH packets of QoS 2 recognised as resends. */
  duplicates: number
  /** Connections closed because a record could not be stored. */
  appendFailures: number
  /** Acks withheld because the topic is full (`onFull: reject`); at QoS 0 the message is lost and counted here too. */
  withheld: number
  /** Connections closed because there was room again for what they had no ack for. */
  closedToResend: number
  /** Connections closed for a breach of the protocol, oversize packets included. */
  protocolViolations: number
  /** Packets above maxPacketBytes. */
  oversize: number
  /** CONNECTs refused: wrong version, empty client id, bad credentials, no room for session state. */
  refusedConnects: number
  /** Connections closed at once because maxConnections are open. */
  connectionsRefused: number
  keepaliveTimeouts: number
  connectTimeouts: number
  /** Times a socket was paused at maxInflight. */
  pauses: number
  /** Connections dropped because they did not read what they were sent. */
  slowSubscribers: number
  /** Messages sent to local subscribers. */
  delivered: number
  /** Messages not queued for an offline local session because its queue or the session state was full. */
  sessionQueueDropped: number
  /** Retained messages not kept for want of room (maxRetainedBytes). */
  retainedRefused: number
  willsPublished: number
}

/** A snapshot for status and metrics. */
export interface MqttStats extends MqttCounters {
  connections: number
  /** Publishes taken and not yet durable. */
  inflight: number
  subscriptions: number
  sessions: number
  queuedMessages: number
  openQos2: number
  retainedMessages: number
  retainedBytes: number
  sessionStateBytes: number
  wills: number
}

export function newCounters(): MqttCounters {
  return {
    published: [0, 0, 0],
    durable: 0,
    duplicates: 0,
    appendFailures: 0,
    withheld: 0,
    closedToResend: 0,
    protocolViolations: 0,
    oversize: 0,
    refusedConnects: 0,
    connectionsRefused: 0,
    keepaliveTimeouts: 0,
    connectTimeouts: 0,
    pauses: 0,
    slowSubscribers: 0,
    delivered: 0,
    sessionQueueDropped: 0,
    retainedRefused: 0,
    willsPublished: 0,
  }
}
