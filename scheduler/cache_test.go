package scheduler

import "testing"

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
