import { TributaryError } from '../../../../common/errors.ts'
import type { LinkChange, Peers } from '../types.ts'
import type { PeerContext } from './context.ts'
import type { Dialled } from './dialled.ts'
import { CLOSE_WAIT_MS, dialNode } from './dialled.ts'
import type { Served } from './served.ts'
import { serveLink } from './served.ts'

/** Links of other nodes that did not say who they are yet, and those that did, together. */
const MAX_SERVED_LINKS = 1_024
/** Nodes that said where they are; as many as there may be in a cluster, and some that left it. */
const MAX_SAID_ADDRESSES = 200

/** The links of this node, none yet. */
export function createPeers(given: Omit<PeerContext, 'counters'>): Peers {
  const counters = { calls: 0, callsRefused: 0, callsServed: 0, linksLost: 0 }
  const context: PeerContext = { ...given, counters }
  const { log } = context
  const own = context.self().nodeId
  const dialled = new Map<number, { address: string; link: Dialled }>()
  /** Where nodes that dialled this one say they are. */
  const said = new Map<number, string>()
  const located = new Set<number>()
  const served = new Set<Served>()
  const listeners: ((nodeId: number, change: LinkChange) => void)[] = []
  let closing: Promise<void> | null = null
  let whenEmpty: () => void = () => {}

  function forget(nodeId: number): void {
    const known = dialled.get(nodeId)
    if (known === undefined) return
    const wasUp = known.link.identity() !== null
    dialled.delete(nodeId)
    void known.link.close()
    // Said now: a dead machine takes its time to answer, and the next link may be up by then.
    if (wasUp) tell(nodeId, 'down')
  }

  function tell(nodeId: number, change: LinkChange): void {
    for (const listener of listeners) listener(nodeId, change)
  }

  function find(nodeId: number, address: string | null): void {
    const known = dialled.get(nodeId)
    if (address === null) said.delete(nodeId)
    if (closing !== null || nodeId === own || known?.address === (address ?? undefined)) return
    forget(nodeId)
    if (address === null) return
    const saidAddress = (): string | null => said.get(nodeId) ?? null
    const link = dialNode(context, nodeId, address, saidAddress, change => {
      // A link that was given up for another address has nothing to say any more.
      if (dialled.get(nodeId)?.link === link) tell(nodeId, change)
    })
    dialled.set(nodeId, { address, link })
  }

  /** It knows best, and this node may be the last to hear: how would it, if it could not answer those who would tell it? */
  function saysAddress(nodeId: number, address: string): void {
    if (!said.has(nodeId) && said.size >= MAX_SAID_ADDRESSES) return
    said.set(nodeId, address)
    if (!dialled.has(nodeId)) find(nodeId, address)
  }

  /** Who is found by nothing but its own word is dialled for as long as it dials. */
  function goneLink({ identity }: Served): void {
    const nodeId = identity()?.nodeId
    if (nodeId === undefined || located.has(nodeId)) return
    if (![...served].some(link => link.identity()?.nodeId === nodeId)) find(nodeId, null)
  }

  async function closeAll(): Promise<void> {
    const empty = new Promise<void>(resolve => {
      whenEmpty = resolve
    })
    const links = [...dialled.values()].map(({ link }) => link.close())
    for (const link of served) link.end(null)
    if (served.size === 0) whenEmpty()
    const timer = context.env.clock.setTimer(whenEmpty, CLOSE_WAIT_MS, true)
    await Promise.all([...links, empty])
    timer.cancel()
  }

  return {
    locate: (nodeId, address) => {
      if (address === null) located.delete(nodeId)
      else located.add(nodeId)
      find(nodeId, address)
    },
    hear: (nodeId, address) => {
      if (!dialled.has(nodeId)) saysAddress(nodeId, address)
    },
    send: (nodeId, frame) => dialled.get(nodeId)?.link.send(frame) ?? false,
    call: (nodeId, call, timeoutMs) => {
      const known = dialled.get(nodeId)
      if (known !== undefined && closing === null) return known.link.call(call, timeoutMs)
      const message = closing === null ? `where node ${nodeId} is is not known` : 'this node stops'
      return Promise.reject(new TributaryError('not_available', message))
    },
    nodes: () => [...dialled.keys()],
    isUp: nodeId => dialled.get(nodeId)?.link.identity() != null,
    identity: nodeId => dialled.get(nodeId)?.link.identity() ?? null,
    onLink: listener => listeners.push(listener),
    reintroduce: () => {
      for (const { link } of dialled.values()) link.restart()
      for (const link of served) link.end(new TributaryError('not_available', 'shake hands anew'))
    },
    accept: link => {
      if (closing !== null || served.size >= MAX_SERVED_LINKS) {
        link.handle({ message: () => {}, drain: () => {}, close: () => {} })
        link.terminate()
        return
      }
      served.add(
        serveLink(link, context, {
          introduced: (fresh, { nodeId, directoryId }, peerAddress) => {
            log.debug({ node: nodeId, remote: link.remote }, 'another node came')
            for (const older of served) {
              const there = older.identity()
              // Two directories under one node id are told apart by the metadata: by their links they would only fight.
              if (older === fresh || there?.nodeId !== nodeId || there.directoryId !== directoryId) continue
              older.end(new TributaryError('fenced', `a newer link of node ${nodeId} took over`))
            }
            if (peerAddress !== null) saysAddress(nodeId, peerAddress)
            dialled.get(nodeId)?.link.hurry()
          },
          gone: old => {
            served.delete(old)
            goneLink(old)
            if (served.size === 0) whenEmpty()
          },
        }),
      )
    },
    stats: () => {
      const links = [...dialled.values()].map(({ link }) => link)
      const books = links.map(link => link.calls.stats())
      const total = (pick: (book: (typeof books)[number]) => number) =>
        books.reduce((sum, book) => sum + pick(book), 0)
      return {
        ...counters,
        up: links.filter(link => link.identity() !== null).length,
        known: links.length,
        served: [...served].filter(link => link.identity() !== null).length,
        callsInFlight: total(book => book.inFlight),
        callsQueued: total(book => book.waiting),
        callBytesInFlight: total(book => book.bytesInFlight),
      }
    },
    close: () => {
      closing ??= closeAll()
      return closing
    },
  }
}
