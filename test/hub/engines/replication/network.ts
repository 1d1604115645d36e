import type { Rng } from '../../../../common/env.ts'
import { TributaryError } from '../../../../common/errors.ts'
import type { FetchedFrame, FetchFrame, PeerCall } from '../../../../common/wire-peer.ts'
import { decodePeerFrame, encodePeerFrame } from '../../../../common/wire-peer-codec.ts'
import type { NodeReplication, ReplicaCall } from '../../../../hub/engines/cluster/replication.ts'
import type {
  AnswerTo,
  FetchService,
  LinkChange,
  Peers,
  SentFrame,
} from '../../../../hub/engines/cluster/types.ts'

/** Links between nodes in memory: each dialled one way, in order, delivered turn by turn as chance has it. */

interface Waiting {
  deliver(): void
}

interface Dialled {
  from: number
  to: number
  /** Rises with each break, so that what was sent before never arrives. */
  life: number
  isUp: boolean
  out: Waiting[]
  back: Waiting[]
  service: FetchService | null
  calls: Set<(error: TributaryError) => void>
}

export type NodePeers = Pick<Peers, 'send' | 'call' | 'isUp' | 'onLink'>

export class Network {
  readonly #rng: Rng
  readonly #links = new Map<string, Dialled>()
  readonly #nodes = new Map<number, NodeReplication>()
  readonly #listeners = new Map<number, ((nodeId: number, change: LinkChange) => void)[]>()
  readonly #cuts = new Set<string>()
  frames = 0

  constructor(rng: Rng) {
    this.#rng = rng
  }

  /** What a node is given as its links; they come up when `join` says who serves there. */
  peersOf(nodeId: number): NodePeers {
    const listeners: ((nodeId: number, change: LinkChange) => void)[] = []
    this.#listeners.set(nodeId, listeners)
    return {
      isUp: to => this.#links.get(`${nodeId}>${to}`)?.isUp ?? false,
      onLink: listener => void listeners.push(listener),
      send: (to, frame) => this.#send(nodeId, to, frame),
      call: (to, call) => this.#call(nodeId, to, call),
    }
  }

  join(nodeId: number, replication: NodeReplication): void {
    this.#nodes.set(nodeId, replication)
    this.connect()
  }

  leave(nodeId: number): void {
    this.#nodes.delete(nodeId)
    this.#listeners.delete(nodeId)
    for (const link of [...this.#links.values()]) {
      if (link.from === nodeId || link.to === nodeId) this.#break(link)
    }
  }

  /** Cuts both links between two nodes. */
  cut(left: number, right: number): void {
    this.#cuts.add(`${left}>${right}`).add(`${right}>${left}`)
    for (const link of [...this.#links.values()]) {
      if (this.#cuts.has(`${link.from}>${link.to}`)) this.#break(link)
    }
  }

  heal(): void {
    this.#cuts.clear()
    this.connect()
  }

  /** Dials whatever may be dialled. */
  connect(): void {
    for (const from of this.#nodes.keys()) {
      for (const to of this.#nodes.keys()) {
        const key = `${from}>${to}`
        if (from === to || this.#cuts.has(key) || this.#links.get(key)?.isUp === true) continue
        const link: Dialled = {
          from,
          to,
          life: 0,
          isUp: true,
          out: [],
          back: [],
          service: null,
          calls: new Set(),
        }
        this.#links.set(key, link)
        for (const listener of this.#listeners.get(from) ?? []) listener(to, 'up')
      }
    }
  }

  #break(link: Dialled): void {
    link.isUp = false
    link.life++
    link.out = []
    link.back = []
    this.#links.delete(`${link.from}>${link.to}`)
    link.service?.close()
    for (const listener of this.#listeners.get(link.from) ?? []) listener(link.to, 'down')
    for (const reject of link.calls) reject(new TributaryError('not_available', 'the link broke'))
  }

  #send(from: number, to: number, frame: SentFrame): boolean {
    const link = this.#links.get(`${from}>${to}`)
    if (link === undefined || !link.isUp) return false
    const bytes = encodePeerFrame(frame)
    link.out.push({
      deliver: () => {
        const decoded = decodePeerFrame(bytes, 'dialler')
        if (decoded.t === 'fetch') this.#fetch(link, decoded)
      },
    })
    return true
  }

  #fetch(link: Dialled, frame: FetchFrame): void {
    link.service ??= this.#nodes.get(link.to)?.serve(link.from, reply => this.#reply(link, reply)) ?? null
    this.frames++
    link.service?.fetch(frame)
  }

  #reply(link: Dialled, frame: FetchedFrame): void {
    if (!link.isUp) return
    const bytes = encodePeerFrame(frame)
    link.back.push({
      deliver: () => {
        const decoded = decodePeerFrame(bytes, 'server')
        if (decoded.t !== 'fetched') return
        this.frames++
        this.#nodes.get(link.from)?.fetched(link.to, decoded)
      },
    })
  }

  #call<C extends PeerCall>(from: number, to: number, call: C): Promise<AnswerTo<C['c']>> {
    const link = this.#links.get(`${from}>${to}`)
    if (link === undefined) return Promise.reject(new TributaryError('not_available', 'no link'))
    return new Promise((resolve, reject) => {
      link.calls.add(reject)
      const settle = (then: () => void): void => {
        link.back.push({
          deliver: () => {
            link.calls.delete(reject)
            then()
          },
        })
      }
      link.out.push({
        deliver: () => {
          const target = this.#nodes.get(to)
          const asked: PeerCall = call
          if (target === undefined || !isReplicaCall(asked)) return
          target.answer(asked).then(
            answer =>
              settle(() => (isAnswerTo(call, answer) ? resolve(answer) : reject(new Error('other answer')))),
            error => settle(() => reject(error)),
          )
        },
      })
    })
  }

  /** Lets some of what is on its way arrive. */
  deliver(): void {
    for (const link of [...this.#links.values()]) {
      for (const queue of [link.out, link.back]) {
        for (let count = this.#rng.below(4); count > 0; count--) queue.shift()?.deliver()
      }
    }
  }

  isIdle(): boolean {
    return [...this.#links.values()].every(({ out, back }) => out.length + back.length === 0)
  }
}

function isReplicaCall(call: PeerCall): call is ReplicaCall {
  return call.c === 'producer-snapshot' || call.c === 'stretch'
}

function isAnswerTo<C extends PeerCall>(call: C, answer: { c: string }): answer is AnswerTo<C['c']> {
  return answer.c === call.c
}
