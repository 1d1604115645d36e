import type { FastifyInstance } from 'fastify'
import { TributaryError } from '../../../common/errors.ts'
import { SUBSCRIBE_PATH, UPLINK_PATH } from '../../../common/wire.ts'
import { sendError } from './errors.ts'

/** Answers whatever no route takes: 404, 405 with `Allow`, OPTIONS, and plain requests to the WebSocket paths. */

/** To be called before the routes are registered. */
export function handleUnknown(app: FastifyInstance): void {
  const routes: { pattern: RegExp; methods: Set<string> }[] = []

  app.addHook('onRoute', route => {
    const source = `^${route.url.replace(/[.*+?^${}()|[\]\\]/g, '\\$&').replace(/:[^/]+/g, '[^/]+')}$`
    const known = routes.find(({ pattern }) => pattern.source === new RegExp(source).source)
    const methods = known?.methods ?? new Set(['OPTIONS'])
    for (const method of [route.method].flat()) methods.add(method)
    if (known === undefined) routes.push({ pattern: new RegExp(source), methods })
  })

  app.setNotFoundHandler(async (request, reply) => {
    const path = request.url.split('?', 1)[0] ?? ''
    if (path === UPLINK_PATH || path === SUBSCRIBE_PATH) {
      reply.header('upgrade', 'websocket')
      const message = `${path} is a WebSocket: connect with a client or an edge, not with plain HTTP`
      return sendError(reply, new TributaryError('protocol_error', message), 426)
    }
    const methods = routes.find(({ pattern }) => pattern.test(path))?.methods
    if (methods === undefined) {
      const message = `there is no ${request.method} ${path.slice(0, 200)} here; GET / lists what there is`
      return sendError(reply, new TributaryError('not_found', message))
    }
    reply.header('allow', [...methods].join(', '))
    if (request.method === 'OPTIONS') return reply.code(204).send()
    const message = `${request.method} is not possible on ${path.slice(0, 200)}; it takes ${[...methods].join(', ')}`
    return sendError(reply, new TributaryError('invalid_argument', message), 405)
  })
}
