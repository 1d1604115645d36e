import type { FastifyInstance } from 'fastify'
import { z } from 'zod'
import { TributaryError } from '../../../common/errors.ts'
import { KIB } from '../../../common/limits.ts'
import type { HttpContext } from './context.ts'
import { parseWith } from './errors.ts'
import { nameParam, pathParam } from './query.ts'

/**
 * The cluster over REST.
 *
 *   GET /v1/cluster                        ClusterStatus
 *   GET /v1/cluster/nodes                  {"nodes":[NodeInfo]}
 *   POST /v1/cluster/nodes/:id/drain       {"draining"?: true} -> 204; replicas move away, watch `nodes`
 *   DELETE /v1/cluster/nodes/:id           204; a node that holds replicas or lives is not removed
 *   POST /v1/cluster/balance               {"moved": leaderships given back}
 *   GET /v1/topics/:name/placement         {"partitions":[Placement]}
 *   POST /v1/topics/:name/reassign         {"replication"?: 3} -> {"partitions": how many move}
 *   POST /v1/topics/:name/elect-unclean    {"partition": 0} -> {"leader": node}; loses what only others held
 */

/** Bodies of these routes are small. */
const options = { bodyLimit: 4 * KIB }

const drainSchema = z.strictObject({ draining: z.boolean('it must be true or false').default(true) })
const reassignSchema = z.strictObject({
  replication: z.int('it must be a whole number').min(1, 'it must be at least 1').nullable().default(null),
})
const electSchema = z.strictObject({ partition: z.int('it must be a whole number') })

export function registerCluster(app: FastifyInstance, context: HttpContext): void {
  const { cluster, topics } = context.ports

  app.get('/v1/cluster', async () => cluster.status())
  app.get('/v1/cluster/nodes', async () => ({ nodes: cluster.nodes() }))
  app.post('/v1/cluster/nodes/:id/drain', options, async (request, reply) => {
    const { draining } = parseWith(drainSchema, request.body ?? {}, 'body')
    await cluster.drain(nodeParam(pathParam(request, 'id')), draining)
    return reply.code(204).send()
  })
  app.delete('/v1/cluster/nodes/:id', async (request, reply) => {
    await cluster.remove(nodeParam(pathParam(request, 'id')))
    return reply.code(204).send()
  })
  app.post('/v1/cluster/balance', options, async () => cluster.balance())
  app.get('/v1/topics/:name/placement', async request => ({
    partitions: cluster.placements((await topics.find(nameParam(request))).topicId),
  }))
  app.post('/v1/topics/:name/reassign', options, async request => {
    const { replication } = parseWith(reassignSchema, request.body ?? {}, 'body')
    return cluster.reassign(nameParam(request), replication)
  })
  app.post('/v1/topics/:name/elect-unclean', options, async request => {
    const { partition } = parseWith(electSchema, request.body, 'body')
    return cluster.electUnclean(nameParam(request), partition)
  })
}

function nodeParam(text: string): number {
  if (/^[1-9]\d{0,9}$/.test(text)) return Number(text)
  throw new TributaryError('invalid_argument', `node "${text}" is none; node ids are whole numbers from 1`)
}
