import type { Logger } from 'pino'
import { pino } from 'pino'
import type { HubConfig } from '../../common/config-hub.ts'
import type { Link, LinkHandlers } from '../../common/env.ts'
import { SUBSCRIBE_PATH, UPLINK_PATH } from '../../common/wire.ts'
import { PEER_PATH } from '../../common/wire-peer.ts'
import { acceptSubscriber, createSubscribeCounters } from '../../hub/endpoints/subscribe/subscriber.ts'
import { acceptUplink, createUplinkCounters } from '../../hub/endpoints/uplink/uplink.ts'
import type { ClusterEngine } from '../../hub/engines/cluster/engine.ts'
import { openClusterEngine } from '../../hub/engines/cluster/engine.ts'
import type { FakeDisk } from '../fake-disk.ts'
import type { MachineOptions } from './machine.ts'
import { MachineHost } from './machine.ts'
import type { Network } from './network.ts'
import type { SimProcess } from './process.ts'
import type { World } from './world.ts'

/** The machine of a hub node. */

export const HTTP_PORT = 7600
export const PEER_PORT = 7700

/** As hub/endpoints/http/upgrade.ts has it. */
const READY_POLL_MS = 500

/** Errors that nobody foresaw. */
const BROKEN = /"type":"(TypeError|RangeError|ReferenceError|AssertionFailure)"/

/** What nodes log and must happen in a run of many seeds, and what it is counted as. */
const COUNTED: readonly (readonly [string, string])[] = [
  ['"what only this replica had was cut off"', 'replica truncated'],
  ['"a replica begins anew where its leader starts"', 'replica began anew'],
  ['"nodes are silent and lead nothing any more"', 'node fenced'],
  ['"the quorum changes"', 'quorum changed'],
]

/** And what they say where a record was lost that all had agreed on. */
const LOST = '"committed records were cut off'

/** Without what all lines have. */
function shortened(line: string): string {
  return line.trim().replace('{"level":30,', '{')
}

/** What a process of a node runs. */
export interface RunningHub {
  process: SimProcess
  engine: ClusterEngine
  sessions: Set<Session>
}

/** One connection of an edge or a client. */
interface Session {
  close(): Promise<void>
  sendAway(reason: string): void
}

export interface HubHostOptions extends MachineOptions {
  nodeId: number
  config: HubConfig
}

export class HubHost extends MachineHost<RunningHub> {
  readonly nodeId: number
  /** For edges and clients, and for other nodes. */
  readonly address: string
  readonly peerAddress: string
  readonly #config: HubConfig

  constructor(world: World, network: Network, options: HubHostOptions) {
    super(world, network, 'node', options)
    this.nodeId = options.nodeId
    this.#config = options.config
    this.address = `${this.host}:${HTTP_PORT}`
    this.peerAddress = `${this.host}:${PEER_PORT}`
  }

  protected override async open(process: SimProcess): Promise<RunningHub> {
    const { env } = process
    const config = this.#config
    const engine = await openClusterEngine(config, env, this.#logger(), {
      onPeers: async acceptPeer => {
        this.network.listen(this.peerAddress, {
          process,
          accept: (path, link) => (path === PEER_PATH ? acceptPeer(link) : link.terminate()),
        })
      },
    })
    const running: RunningHub = { process, engine, sessions: new Set() }
    engine.onFailed(error => this.gaveUp(process, error))
    const { ports } = engine
    const { limits } = config
    const log = this.#logger()
    const uplink = createUplinkCounters()
    const subscribe = createSubscribeCounters()
    const { sessions } = running
    const admit = (link: Link, accept: (link: Link) => Session): void => {
      const handle: Link['handle'] = handlers => {
        const close: LinkHandlers['close'] = closed => {
          sessions.delete(session)
          handlers.close(closed)
        }
        link.handle({ ...handlers, close })
      }
      const session = accept({ ...link, handle })
      sessions.add(session)
    }
    this.network.listen(this.address, {
      process,
      accept: (path: string, link: Link) => {
        const deps = { ports, env, log, limits }
        if (path === UPLINK_PATH) admit(link, its => acceptUplink(its, { ...deps, counters: uplink }))
        else if (path === SUBSCRIBE_PATH) {
          admit(link, its => acceptSubscriber(its, { ...deps, counters: subscribe }))
        } else link.terminate()
      },
    })
    const watchReadiness = (): void => {
      const reason = ports.notReadyReason()
      if (reason !== null && ports.addresses().length > 0) {
        for (const session of sessions) session.sendAway(reason)
      }
      env.clock.setTimer(watchReadiness, READY_POLL_MS)
    }
    watchReadiness()
    return running
  }

  /** Its log: told to who watches one seed, and searched for what a real node would swallow and must not happen. */
  #logger(): Logger {
    const { world } = this
    const write = (line: string): void => {
      world.say(() => `${this.host} ${shortened(line)}`)
      for (const [text, what] of COUNTED) if (line.includes(text)) world.count(what)
      if (BROKEN.test(line) || line.includes(LOST)) world.fail(new Error(`${this.host} logs ${line}`))
    }
    return pino({ level: 'info', base: null, timestamp: false }, { write })
  }

  protected override ending(): void {
    this.network.unlisten(this.address)
    this.network.unlisten(this.peerAddress)
  }

  restore(disk: FakeDisk): void {
    this.swapDisk(disk)
  }

  wipe(): void {
    this.swapDisk(null)
  }

  /** As hub/node.ts does it. */
  protected override async shutDown({ engine, sessions }: RunningHub): Promise<void> {
    await engine.leave()
    this.network.unlisten(this.address)
    await Promise.all([...sessions].map(session => session.close()))
    await engine.close()
  }
}
