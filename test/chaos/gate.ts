/**
 * TCP gates in front of nodes' listeners, that let bytes through or hold them, by who dialled whom and which way: what a
 * network does that loses packets. Held bytes come when it heals, unless the connection was given up before.
 */

import { once } from 'node:events'
import type { Server, Socket } from 'node:net'
import { connect, createServer } from 'node:net'
import { decode } from 'cbor-x'
import { webSocketPayload } from './frames.ts'

export interface Gates {
  /** Holds what `from` says to `to`, on connections there are and those to come; 0 is whoever is no node. */
  hold(from: number, to: number): void
  /** Lets everything through again. */
  heal(): void
  close(): Promise<void>
}

interface Flow {
  /** Null until its hello told who dialled. */
  from: number | null
  to: number
  source: Socket
  isHeld: boolean
}

/** A gate: listens on `port` and leads to `targetPort` of a node. */
interface Entrance {
  nodeId: number
  port: number
  targetPort: number
  /** Diallers are nodes, and say so first. */
  isForPeers: boolean
}

/** Opens gates. */
export async function openGates(entrances: readonly Entrance[]): Promise<Gates> {
  const held = new Set<string>()
  const flows = new Set<Flow>()
  const servers: Server[] = []

  const apply = (flow: Flow): void => {
    const hold = flow.from !== null && held.has(`${flow.from}>${flow.to}`)
    if (hold === flow.isHeld) return
    flow.isHeld = hold
    if (hold) flow.source.pause()
    else flow.source.resume()
  }
  const applyAll = (): void => {
    for (const flow of flows) apply(flow)
  }

  for (const { nodeId, port, targetPort, isForPeers } of entrances) {
    const server = createServer(dialler => {
      const target = connect(targetPort, '127.0.0.1')
      const there: Flow = { from: isForPeers ? null : 0, to: nodeId, source: dialler, isHeld: false }
      const back: Flow = { from: nodeId, to: 0, source: target, isHeld: false }
      flows.add(there).add(back)
      const end = (): void => {
        dialler.destroy()
        target.destroy()
        flows.delete(there)
        flows.delete(back)
      }
      if (isForPeers) {
        readHello(dialler, diallerId => {
          there.from = diallerId
          back.to = diallerId
          applyAll()
        })
      }
      pump(there, target, end)
      pump(back, dialler, end)
      applyAll()
    })
    server.listen(port, '127.0.0.1')
    await once(server, 'listening')
    servers.push(server)
  }

  return {
    hold: (from, to) => {
      held.add(`${from}>${to}`)
      applyAll()
    },
    heal: () => {
      held.clear()
      applyAll()
    },
    close: async () => {
      for (const { source } of flows) source.destroy()
      await Promise.all(servers.map(server => new Promise(resolve => server.close(resolve))))
    },
  }
}

function pump(flow: Flow, to: Socket, end: () => void): void {
  flow.source.setNoDelay(true)
  flow.source.on('data', data => {
    if (to.write(data)) return
    flow.source.pause()
    to.once('drain', () => {
      if (!flow.isHeld) flow.source.resume()
    })
  })
  flow.source.on('error', end).on('close', end)
}

/** Tells the node id in a dialler's first WebSocket message, the peer-hello. */
function readHello(dialler: Socket, told: (nodeId: number) => void): void {
  let seen: Buffer = Buffer.alloc(0)
  const look = (data: Buffer): void => {
    seen = Buffer.concat([seen, data])
    const start = seen.indexOf('\r\n\r\n')
    const payload = start < 0 ? null : webSocketPayload(seen.subarray(start + 4))
    if (payload === null) return
    dialler.off('data', look)
    const hello: unknown = decode(payload)
    if (typeof hello === 'object' && hello !== null && 'nodeId' in hello) told(Number(hello.nodeId))
  }
  dialler.on('data', look)
}
