import pino from 'pino'
import type { TributaryClient } from '../common/client.ts'
import { connect } from '../common/client.ts'
import type { ClientEnv } from '../common/client-connection.ts'
import { nodeCodec } from '../common/compression.ts'
import type { Clock } from '../common/env.ts'
import { TributaryError } from '../common/errors.ts'
import type {
  SubscribeCounters,
  SubscribeDeps,
  SubscribeSession,
} from '../hub/endpoints/subscribe/subscriber.ts'
import { acceptSubscriber, createSubscribeCounters } from '../hub/endpoints/subscribe/subscriber.ts'
import type { FakePorts } from './fake-ports.ts'
import { createFakePorts } from './fake-ports.ts'
import type { LinkPair, LinkPairOptions } from './links.ts'
import { linkPair } from './links.ts'
import { liveClock } from './live-clock.ts'

/** Clients and the hub's subscribe endpoint over links in memory, with an engine that keeps nothing. */
export interface ClientStage {
  ports: FakePorts
  counters: SubscribeCounters
  client: TributaryClient
  /** Every connection made, the newest last. */
  pairs: LinkPair[]
  sessions: SubscribeSession[]
  /** Dials fail while false. */
  setUp(up: boolean): void
  /** URLs dialled, in order. */
  dials: string[]
  /** Nobody answers at these. */
  gone: Set<string>
  /** A link to the endpoint that no client holds. */
  dialRaw(options?: LinkPairOptions): LinkPair
}

const SUBSCRIBE_LIMITS: SubscribeDeps['limits'] = {
  maxFrameBytes: 16_777_216,
  maxInflightBytesPerConnection: 8_388_608,
  readBytesPerConnection: 4_194_304,
  heartbeatMs: 20_000,
  deadMs: 60_000,
  helloTimeoutMs: 10_000,
}

export function clientStage(
  options: {
    link?: LinkPairOptions
    limits?: Partial<SubscribeDeps['limits']>
    ports?: FakePorts
    hub?: string
    clock?: Clock
  } = {},
): ClientStage {
  const ports = options.ports ?? createFakePorts({ defaultPartitions: 3 })
  const counters = createSubscribeCounters()
  const log = pino({ level: 'silent' })
  const pairs: LinkPair[] = []
  const sessions: SubscribeSession[] = []
  const dials: string[] = []
  const gone = new Set<string>()
  let up = true

  function dialRaw(link: LinkPairOptions = options.link ?? {}): LinkPair {
    const pair = linkPair(link)
    pairs.push(pair)
    const limits = { ...SUBSCRIBE_LIMITS, ...options.limits }
    sessions.push(acceptSubscriber(pair.right, { ports, counters, log, limits, env: { clock: liveClock } }))
    return pair
  }

  const env: ClientEnv = {
    clock: options.clock ?? liveClock,
    codec: nodeCodec(),
    rng: {
      float: () => 0,
      below: bound => Math.floor(Math.random() * bound),
      bytes: count => new Uint8Array(count),
    },
    net: {
      dial: async url => {
        dials.push(url)
        if (!up || gone.has(url)) throw new TributaryError('not_available', 'connection refused')
        return dialRaw().left
      },
    },
  }
  return {
    ports,
    counters,
    client: connect({ hub: options.hub ?? '127.0.0.1:7600', env }),
    dials,
    gone,
    pairs,
    sessions,
    setUp: to => {
      up = to
    },
    dialRaw,
  }
}
