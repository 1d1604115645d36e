import type { Logger } from 'pino'
import type { Clock } from '../../../../common/env.ts'
import { isTributaryError, TributaryError } from '../../../../common/errors.ts'
import type { PeerMemory } from '../../../../common/wire-peer.ts'
import type { Config, MemberId, Promised } from '../../../raft/types.ts'
import type { QuorumMetadata } from '../metadata.ts'
import type { Peers } from '../types.ts'
import type { LocatedRegistration, OwnPast, Registration } from './memory.ts'
import { configIn, isOlder, keptIn, memoryOf, ownIncarnation, registrationsIn } from './memory.ts'
import type { LoadedMember } from './opening.ts'
import type { QuorumStorage } from './storage.ts'

/**
 * What this node and the others know of each other's past. A node that comes back with a directory hears it before it votes, acks or leads
 * anything: an older directory than it had keeps no seat. It waits only as long as the others take to answer, and not for ever: who is
 * silent may be dead, and those who are left must be able to go on.
 */

export interface Past {
  /** What this node knows of another one. */
  memoryOf(nodeId: number): PeerMemory | null
  /** What another node knows of this one. */
  reminded(from: number, memory: PeerMemory | null): void
  /** Where the nodes are that the directory knows. */
  addresses(): ReadonlyMap<number, string>
  /** Asks those nodes whether the directory is the newest. Rejects with `fenced` where nobody could take its place, `closed`. */
  isNewest(links: Pick<Peers, 'onLink'>): Promise<boolean>
  /** From now on the node takes part; it stops where it turns out that it must not. */
  follow(metadata: QuorumMetadata, member: LoadedMember, isRegistered: () => boolean): void
  /** Names this start of the process, before it registers; null where the disk has no room for it. */
  beginStart(): Promise<string | null>
}

export interface PastContext {
  clock: Clock
  log: Logger
  nodeId: number
  storage: Pick<QuorumStorage, 'self' | 'seatId' | 'startIds' | 'beginStart'>
  /** Nodes that were configured, with their addresses. */
  configured: ReadonlyMap<number, string>
  /** For those who are silent. */
  timeoutMs: number
  stop: AbortSignal
}

/** Of what was loaded; null for an empty directory. */
export function createPast(context: PastContext, loaded: LoadedMember | null): Past {
  const { clock, log, nodeId, storage } = context
  let held = loaded === null ? null : holdingsOf(loaded)
  const keptAtStart = loaded === null ? null : keptIn(loaded)
  let running: { metadata: QuorumMetadata; isRegistered(): boolean } | null = null
  /** Who answered, before the node takes part. */
  const answered = new Map<number, 'refused' | PeerMemory | null>()
  let consider: () => void = () => {}

  const configNow = (): Config => running?.metadata.status().config ?? held?.config ?? NOBODY

  function registered(of: number): Registration | undefined {
    const known = held?.registrations.get(of)?.at(-1)
    const now = running?.metadata.image().node(of)
    return (now?.incarnation ?? 0) >= (known?.incarnation ?? 0) ? now : known
  }

  function own(): OwnPast {
    const directoryId = storage.seatId()
    const startIds = storage.startIds()
    const now = running?.metadata.image().node(nodeId)
    const all = [...(held?.registrations.get(nodeId) ?? []), ...(now === undefined ? [] : [now])]
    const incarnation = Math.max(0, ...all.map(one => ownIncarnation(one, directoryId, startIds)))
    const kept = running === null ? keptAtStart : running.metadata.kept()
    return { seat: storage.self(), directoryId, incarnation, startIds, kept }
  }

  /** Throws where nobody else could go on: what the only voter forgot nobody may decide anew. */
  function checkReplaceable({ othersVote }: PeerMemory): void {
    const { voters } = configNow()
    if (othersVote || voters.length !== 1 || voters[0] !== storage.self()) return
    throw new TributaryError(
      'fenced',
      `the data directory is older than what other nodes know of node ${nodeId}, the only voter of its cluster: put the newest copy of it back, nobody else can lead`,
    )
  }

  function remindedRunning(node: QuorumMetadata, memory: PeerMemory, isRegistered: boolean): void {
    // Who registers while this one lives takes its place, which the metadata tells.
    const told = isRegistered ? { ...memory, startId: null } : memory
    if (!isOlder(own(), told)) return
    try {
      checkReplaceable(memory)
      void node.retire()
    } catch (error) {
      if (!isTributaryError(error)) throw error
      node.fail(error)
    }
  }

  /** Whether the directory is the newest as far as is known; null while nobody speaks against it and some have not answered. */
  function verdict(others: readonly number[]): boolean | null {
    const mine = own()
    for (const told of answered.values()) {
      if (told === null || told === 'refused' || !isOlder(mine, told)) continue
      checkReplaceable(told)
      return false
    }
    return others.every(other => answered.has(other)) ? true : null
  }

  function addresses(): Map<number, string> {
    const known = new Map(context.configured)
    for (const [other, registrations] of held?.registrations ?? []) {
      const address = registrations.at(-1)?.peerAddress ?? null
      if (address !== null) known.set(other, address)
    }
    known.delete(nodeId)
    return known
  }

  function whenAnswered(others: readonly number[], links: Pick<Peers, 'onLink'>): Promise<boolean> {
    return new Promise((resolve, reject) => {
      const settle = (act: () => void): void => {
        consider = () => {}
        timer.cancel()
        context.stop.removeEventListener('abort', stopped)
        act()
      }
      const stopped = (): void =>
        settle(() => reject(new TributaryError('closed', 'stopped while other nodes were asked')))
      const timer = clock.setTimer(() => {
        const silent = others.filter(other => !answered.has(other))
        log.warn({ nodes: silent }, 'nodes do not answer; this one goes on without them')
        settle(() => resolve(true))
      }, context.timeoutMs)
      consider = () => {
        try {
          const isNewest = verdict(others)
          if (isNewest !== null) settle(() => resolve(isNewest))
        } catch (error) {
          settle(() => reject(error))
        }
      }
      links.onLink((other, change) => {
        if (change !== 'refused') return
        if (!answered.has(other)) answered.set(other, 'refused')
        consider()
      })
      if (context.stop.aborted) stopped()
      else context.stop.addEventListener('abort', stopped, { once: true })
      consider()
    })
  }

  return {
    memoryOf: other => {
      const promisedBy = (seat: MemberId): Promised | null => running?.metadata.promisedBy(seat) ?? null
      return memoryOf(other, registered(other), configNow(), promisedBy)
    },
    reminded: (from, memory) => {
      if (running !== null) {
        if (memory !== null) remindedRunning(running.metadata, memory, running.isRegistered())
        return
      }
      answered.set(from, memory)
      consider()
    },
    addresses,
    isNewest: async links => {
      const latest = registered(nodeId)
      // Its own log may tell of another process that took its place.
      if (latest !== undefined && isOlder(own(), latest)) return false
      const others = [...addresses().keys()]
      return others.length === 0 || whenAnswered(others, links)
    },
    follow: (metadata, member, isRegistered) => {
      if (member !== loaded) held = holdingsOf(member)
      running = { metadata, isRegistered }
    },
    beginStart: async () => {
      const mine = held?.registrations.get(nodeId)?.findLast(({ startId }) => isOwn(startId))
      try {
        return await storage.beginStart(mine?.startId ?? null)
      } catch (error) {
        if (!isTributaryError(error, 'disk_full')) throw error
        log.warn(
          'no room to keep the name of this start: an older copy of the directory may not be told from it',
        )
        return null
      }
    },
  }

  function isOwn(startId: string | null): boolean {
    return startId !== null && storage.startIds().includes(startId)
  }
}

const NOBODY: Config = { voters: [], learners: [] }

interface Holdings {
  readonly registrations: ReadonlyMap<number, readonly LocatedRegistration[]>
  readonly config: Config
}

function holdingsOf(loaded: LoadedMember): Holdings {
  return { registrations: registrationsIn(loaded), config: configIn(loaded) }
}
