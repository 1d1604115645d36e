import { test } from 'vitest'
import { fuzz } from './batch.ts'

test('hostile batches raise our errors and nothing else', async () => {
  await fuzz(3000, Math.floor(Math.random() * 2 ** 32))
})
