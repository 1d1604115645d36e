import { expect, test } from 'vitest'
import { FolderSyncs } from '../../../common/log/folder-syncs.ts'

test('parents are synced after each was asked for, and shared by those that wait', async () => {
  const asked: string[] = []
  let failing = 0
  const syncDir = async (path: string): Promise<void> => {
    asked.push(path)
    if (failing-- > 0) throw new Error('the disk is sick')
    await new Promise(resolve => setImmediate(resolve))
  }
  const syncs = new FolderSyncs({ syncDir }, 'd')
  await syncs.parentsOf('t/a/0')
  expect(asked).toEqual(['d/logs/t/a', 'd/logs/t', 'd/logs'])
  asked.length = 0
  await Promise.all(Array.from({ length: 50 }, (_, at) => syncs.parentsOf(`t/a/${at}`)))
  // One under way when the others came, one for all of them; the first goes on upwards meanwhile.
  expect(asked.length).toBeLessThanOrEqual(9)
  expect(asked.filter(path => path === 'd/logs/t/a').length).toBe(2)
  failing = 1
  const [first, second] = await Promise.allSettled([syncs.parentsOf('t/a/0'), syncs.parentsOf('t/a/1')])
  expect([first?.status, second?.status]).toEqual(['rejected', 'fulfilled'])
})
