import type { Server } from 'node:http'
import type { Socket } from 'node:net'

/** Closes the connections of an HTTP server as soon as each has answered what it was asked. */
export interface Drain {
  start(): void
}

/**
 * Node's `closeIdleConnections` spares connections that never sent a request (browsers open such ahead of need), and
 * looks only once: a close would wait for them until its deadline.
 */
export function createDrain(server: Server): Drain {
  const requests = new Map<Socket, number>()
  let draining = false

  server.on('connection', socket => {
    if (draining) socket.destroy()
    else requests.set(socket, 0)
    socket.once('close', () => requests.delete(socket))
  })
  server.on('request', (request, response) => {
    const { socket } = request
    requests.set(socket, (requests.get(socket) ?? 0) + 1)
    response.once('close', () => {
      const left = (requests.get(socket) ?? 1) - 1
      if (requests.has(socket)) requests.set(socket, left)
      if (draining && left === 0) socket.end()
    })
  })
  // Whoever takes the upgrade closes it.
  server.on('upgrade', request => requests.delete(request.socket))

  return {
    start: () => {
      draining = true
      for (const [socket, count] of requests) if (count === 0) socket.destroy()
    },
  }
}
