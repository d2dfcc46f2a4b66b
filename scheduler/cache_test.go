package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestStateKeepsWhatTheServerConfirmed(t *testing.T) {
	s, pod := newState(), testPod("p", "1")
	s.setNode(testNode("a", "2").Node)
	s.assume(pod, "a")
	s.place(pod, "a") // the server's word comes before the answer to the binding
	if s.unassume(pod.UID) || !s.counts(pod.UID) {
		t.Error("a binding that failed after the pod was seen bound makes it count no more")
	}
	other := testPod("q", "1")
	s.assume(other, "a")
	if !s.unassume(other.UID) || s.counts(other.UID) {
		t.Error("a binding that failed leaves the pod counted")
	}
}

func TestNominationsOutliveTheScheduler(t *testing.T) {
	nominate := func(scheduler string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.SchedulerName, p.Status.NominatedNodeName, p.Spec.Priority = scheduler, "a", ptr.To(int32(10))
		}
	}
	s := &Scheduler{state: newState(), queue: newQueue()}
	s.state.setNode(testNode("a", "2").Node)
	s.podChanged(nil, testPod("ours", "2", nominate(Name)).Pod)
	s.podChanged(nil, testPod("strange", "1", nominate("another")).Pod)
	snapshot := s.state.snapshot(testPod("late", "1"))
	if got := len(snapshot.Nodes[0].Pods); got != 1 || snapshot.Nodes[0].Pods[0].Name != "ours" {
		t.Errorf("got %d pods on the node that one was nominated for, want that one", got)
	}
	update := testPod("ours", "2", nominate(Name)).Pod
	update.Status.NominatedNodeName = ""
	s.podChanged(testPod("ours", "2", nominate(Name)).Pod, update)
	if got := len(s.state.snapshot(testPod("late", "1")).Nodes[0].Pods); got != 0 {
		t.Errorf("got %d pods after the nomination ended, want none", got)
	}
}
