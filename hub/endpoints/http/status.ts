import type { FastifyInstance } from 'fastify'
import { TributaryError } from '../../../common/errors.ts'
import type { Metrics } from '../../../common/metrics.ts'
import type { HttpContext } from './context.ts'

/**
 * What the hub says of itself: `/` (name, version, links), `/healthz` (the process is up), `/readyz` (it can serve; 503 with
 * the reason where not), `/metrics` (Prometheus).
 */

/** Routes that need no token: whoever watches over the process has none. */
export const OPEN_PATHS: ReadonlySet<string> = new Set(['/healthz', '/readyz'])

export function registerStatus(
  app: FastifyInstance,
  context: HttpContext,
  metrics: Metrics,
  software: { name: string; version: string },
): void {
  const { ports } = context

  app.get('/', async () => ({
    ...software,
    clusterId: ports.clusterId,
    nodeId: ports.nodeId,
    links: {
      topics: '/v1/topics',
      edges: '/v1/edges',
      health: '/healthz',
      readiness: '/readyz',
      metrics: '/metrics',
    },
  }))

  app.get('/healthz', async () => ({ status: 'ok' }))

  app.get('/readyz', async () => {
    const reason = ports.notReadyReason()
    if (reason !== null) throw new TributaryError('not_available', `not ready: ${reason}`)
    return { status: 'ready' }
  })

  app.get('/metrics', async (_request, reply) => reply.type(metrics.contentType).send(await metrics.text()))
}
