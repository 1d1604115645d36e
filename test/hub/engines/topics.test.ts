import { expect, it } from 'vitest'
import { createTopics } from '../../../hub/engines/cluster/topics.ts'
import { createStage } from '../controller/stage.ts'
import { codeOf } from '../replica/harness.ts'

it('a topic that this node knows with fewer partitions is asked for before one is denied', async () => {
  const stage = createStage()
  stage.start(1)
  stage.call('create-topic', { name: 't', partitions: 2 })
  let syncs = 0
  const metadata = {
    image: () => stage.image,
    submit: async (name: string) => {
      expect(name).toBe('sync')
      if (++syncs === 1) stage.call('alter-topic', { name: 't', change: { partitions: 4 } })
      return JSON.parse('null')
    },
  }
  const { find } = createTopics(metadata, { remove: async () => {} })
  expect(await find('t', 1)).toMatchObject({ partitions: 2 })
  expect(syncs).toBe(0)
  expect(await find('t', 3)).toMatchObject({ partitions: 4 })
  expect(await find('t', 9)).toMatchObject({ partitions: 4 })
  expect(await codeOf(find('none'))).toBe('unknown_topic')
  expect(syncs).toBe(3)
})
