/** A TCP proxy that cuts connections right before or right after frames of chosen kinds. */

import { once } from 'node:events'
import type { Socket } from 'node:net'
import { connect, createServer } from 'node:net'
import type { Rng } from '../../common/env.ts'
import type { Splitter } from './frames.ts'

/** Bytes of a partial frame kept while waiting for the rest. */
const MAX_PARTIAL_BYTES = 64 * 1024 * 1024

export interface CuttingProxy {
  port: number
  /** How often a connection was cut before and after each kind of frame. */
  cuts(): Record<string, number>
  /** Chance that a frame of a kind in `kinds` gets its connection cut. */
  setChance(chance: number): void
  cutAll(): void
  close(): Promise<void>
}

/** Listens on 127.0.0.1:`port` and forwards to `targetPort`. */
export async function startProxy(options: {
  port: number
  targetPort: number
  rng: Rng
  splitter: () => Splitter
  kinds: ReadonlySet<string>
}): Promise<CuttingProxy> {
  const { rng, kinds } = options
  const pairs = new Set<{ cut: () => void }>()
  const cuts: Record<string, number> = {}
  let chance = 0

  const pump = (from: Socket, to: Socket, cut: () => void): void => {
    const split = options.splitter()
    let pending: Buffer = Buffer.alloc(0)
    from.on('data', data => {
      pending = pending.length === 0 ? data : Buffer.concat([pending, data])
      let sent = 0
      for (;;) {
        const found = split(pending.subarray(sent))
        if (found === null) break
        const doomed = kinds.has(found.kind) && rng.float() < chance
        const after = doomed && rng.below(2) === 1
        if (!doomed || after) sent += found.sizeBytes
        if (doomed) {
          const name = `${after ? 'after' : 'before'} ${found.kind}`
          cuts[name] = (cuts[name] ?? 0) + 1
          to.write(pending.subarray(0, sent), () => cut())
          from.pause()
          return
        }
      }
      if (sent > 0 && !to.write(pending.subarray(0, sent))) {
        from.pause()
        to.once('drain', () => from.resume())
      }
      pending = pending.subarray(sent)
      if (pending.length > MAX_PARTIAL_BYTES) cut()
    })
    from.on('error', cut).on('close', cut)
  }

  const server = createServer(client => {
    const target = connect(options.targetPort, '127.0.0.1')
    client.setNoDelay(true)
    target.setNoDelay(true)
    const pair = {
      cut: () => {
        client.destroy()
        target.destroy()
        pairs.delete(pair)
      },
    }
    pairs.add(pair)
    pump(client, target, pair.cut)
    pump(target, client, pair.cut)
  })
  server.listen(options.port, '127.0.0.1')
  await once(server, 'listening')

  return {
    port: options.port,
    cuts: () => cuts,
    setChance: value => {
      chance = value
    },
    cutAll: () => {
      for (const pair of pairs) pair.cut()
    },
    close: async () => {
      for (const pair of pairs) pair.cut()
      await new Promise(resolve => server.close(resolve))
    },
  }
}
