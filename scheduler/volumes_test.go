package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestGivenVolumes: a volume counts as given until the informer has it in any later version, or has it no more.
func TestGivenVolumes(t *testing.T) {
	free := func(name, version string) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: version}}
	}
	written := free("a", "5")
	written.Spec.ClaimRef = &corev1.ObjectReference{Name: "claim"}
	var g givenVolumes
	g.add(free("a", "3"), written)
	g.add(free("gone", "1"), free("gone", "2"))
	claimOf := func(version string) string {
		for _, pv := range g.known([]*corev1.PersistentVolume{free("b", "1"), free("a", version)}) {
			if pv.Spec.ClaimRef != nil {
				return pv.Name + " " + pv.Spec.ClaimRef.Name
			}
		}
		return ""
	}
	for _, step := range []struct{ version, want string }{{"3", "a claim"}, {"3", "a claim"}, {"7", ""}, {"3", ""}} {
		if got := claimOf(step.version); got != step.want {
			t.Errorf("with version %s listed: got %q, want %q", step.version, got, step.want)
		}
	}
	if len(g.given) != 0 {
		t.Errorf("left: %v", g.given)
	}
}
