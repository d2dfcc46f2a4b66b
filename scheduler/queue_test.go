package scheduler

import (
	"fmt"
	"testing"
	"time"
)

func TestQueueOrder(t *testing.T) {
	q, now := newQueue(), time.Now()
	q.add(testPod("old", "1"), now)
	q.add(testPod("young", "1"), now.Add(time.Second))
	q.add(testPod("urgent", "1", priority(10)), now.Add(2*time.Second))
	for _, want := range []string{"urgent", "old", "young"} {
		pod, _, _ := q.take(now.Add(3 * time.Second))
		if pod == nil || pod.Name != want {
			t.Fatalf("got %v, want %s", pod, want)
		}
	}
}

func TestQueueSleepsUntilSomethingChanges(t *testing.T) {
	q, now := newQueue(), time.Now()
	q.add(testPod("p", "1"), now)
	pod, moved, _ := q.take(now)
	q.failed(pod.UID, moved, true, now)
	if pod, _, _ := q.take(now.Add(time.Minute)); pod != nil {
		t.Error("an unplaceable pod is tried again though nothing changed")
	}
	q.stir()
	if pod, _, _ := q.take(now.Add(time.Minute)); pod == nil {
		t.Error("a change of the cluster did not wake the pod")
	}
}

func TestQueueDoesNotMissAChangeDuringAnAttempt(t *testing.T) {
	q, now := newQueue(), time.Now()
	q.add(testPod("p", "1"), now)
	pod, moved, _ := q.take(now)
	q.stir() // while the attempt is under way
	q.failed(pod.UID, moved, true, now)
	if pod, _, _ := q.take(now.Add(firstBackoff)); pod == nil {
		t.Error("the pod sleeps through a change that came during its attempt")
	}
}

func TestQueueDoesNotMissAChangeOfThePodDuringAnAttempt(t *testing.T) {
	q, now := newQueue(), time.Now()
	q.add(testPod("p", "1"), now)
	pod, moved, _ := q.take(now)
	q.add(testPod("p", "2"), now)
	q.failed(pod.UID, moved, true, now)
	if pod, _, _ := q.take(now.Add(firstBackoff)); pod == nil {
		t.Error("the pod sleeps through its own change")
	}
}

func TestQueueTriesForgottenPodsAgain(t *testing.T) {
	q, now := newQueue(), time.Now()
	for i, name := range []string{"a", "b"} {
		q.add(testPod(name, "1"), now)
		pod, moved, _ := q.take(now)
		q.failed(pod.UID, moved, true, now.Add(time.Duration(i)*time.Minute))
	}
	for i, want := range []string{"a", "b"} {
		due := now.Add(forgotten + time.Duration(i)*time.Minute)
		if pod, _, wait := q.take(due.Add(-time.Second)); pod != nil || wait != time.Second {
			t.Fatalf("%s: got %v after %v, want nothing for a second", want, pod, wait)
		}
		if pod, _, _ := q.take(due); pod == nil || pod.Name != want {
			t.Fatalf("got %v, want %s", pod, want)
		}
	}
}

// BenchmarkQueue is what a pod costs the queue while others sleep, with a change of the cluster each time.
func BenchmarkQueue(b *testing.B) {
	for _, sleeping := range []int{0, 10000} {
		b.Run(fmt.Sprintf("sleeping=%d", sleeping), func(b *testing.B) {
			q, now := newQueue(), time.Now()
			for i := range sleeping {
				q.add(testPod(fmt.Sprint("asleep-", i), "1"), now)
				pod, moved, _ := q.take(now)
				q.failed(pod.UID, moved, true, now)
			}
			pod := testPod("p", "1")
			for b.Loop() {
				q.add(pod, now)
				if taken, _, _ := q.take(now); taken.UID != pod.UID {
					b.Fatal(taken.Name)
				}
				q.remove(pod.UID)
				q.stir()
			}
		})
	}
}

func TestQueueWaitsOutNoBackoffForNothing(t *testing.T) {
	q, now := newQueue(), time.Now()
	q.add(testPod("p", "1"), now)
	pod, moved, _ := q.take(now)
	q.failed(pod.UID, moved, true, now)
	q.stir() // a node comes
	q.add(testPod("other", "1"), now)
	for _, want := range []string{"other", "p"} {
		if pod, _, _ := q.take(now); pod == nil || pod.Name != want {
			t.Fatalf("got %v, want %s", pod, want)
		}
	}
}

func TestQueueBacksOff(t *testing.T) {
	q, now := newQueue(), time.Now()
	q.add(testPod("p", "1"), now)
	pod, moved, _ := q.take(now)
	q.failed(pod.UID, moved, false, now)
	if pod, _, wait := q.take(now); pod != nil || wait != firstBackoff {
		t.Errorf("got %v after %v, want nothing for %v", pod, wait, firstBackoff)
	}
	if got := backoff(20); got != mostBackoff {
		t.Errorf("back-off after 20 attempts: got %v, want %v", got, mostBackoff)
	}
}
