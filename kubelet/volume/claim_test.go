package volume

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func TestClaim(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "kept"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	local := v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: dir}}
	for _, test := range []struct {
		name   string
		phase  v1.PersistentVolumeClaimPhase
		source v1.PersistentVolumeSource
		mode   v1.PersistentVolumeMode
		nodes  string // whose label name a node must have for the volume
		owner  v1.ObjectReference
		err    string
	}{
		{name: "local", phase: v1.ClaimBound, source: local, owner: v1.ObjectReference{UID: "claim"}},
		{name: "hostPath", phase: v1.ClaimBound, source: v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{Path: dir}}, owner: v1.ObjectReference{UID: "claim"}},
		{name: "not bound", phase: v1.ClaimPending, source: local, err: "PVC ns/data is not bound"},
		{name: "bound to another", phase: v1.ClaimBound, source: local, owner: v1.ObjectReference{UID: "other"}, err: "bound to another claim"},
		{name: "block device", phase: v1.ClaimBound, source: local, mode: v1.PersistentVolumeBlock, owner: v1.ObjectReference{UID: "claim"}, err: "is a block device"},
		{name: "csi", phase: v1.ClaimBound, source: v1.PersistentVolumeSource{CSI: &v1.CSIPersistentVolumeSource{Driver: "d"}}, owner: v1.ObjectReference{UID: "claim"}, err: `no volume plugin matched: this node has none for PersistentVolumes of type "csi"`},
		{name: "on this node", phase: v1.ClaimBound, source: local, nodes: "n", owner: v1.ObjectReference{UID: "claim"}},
		{name: "on another node", phase: v1.ClaimBound, source: local, nodes: "m", owner: v1.ObjectReference{UID: "claim"}, err: "PersistentVolume pv is not for node n: no matching NodeSelectorTerms"},
		{name: "no directory", phase: v1.ClaimBound, source: v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: dir + "/none"}}, owner: v1.ObjectReference{UID: "claim"}, err: "no such file or directory"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pvc := &v1.PersistentVolumeClaim{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "claim"},
				Spec:       v1.PersistentVolumeClaimSpec{VolumeName: "pv"},
				Status:     v1.PersistentVolumeClaimStatus{Phase: test.phase},
			}
			pv := &v1.PersistentVolume{
				ObjectMeta: metav1.ObjectMeta{Name: "pv"},
				Spec:       v1.PersistentVolumeSpec{PersistentVolumeSource: test.source, ClaimRef: &test.owner},
			}
			if test.mode != "" {
				pv.Spec.VolumeMode = &test.mode
			}
			if test.nodes != "" {
				pv.Spec.NodeAffinity = &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{
					{MatchExpressions: []v1.NodeSelectorRequirement{{Key: "name", Operator: v1.NodeSelectorOpIn, Values: []string{test.nodes}}}},
				}}}
			}
			m, _ := newManager(t, pvc, pv, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"name": "n"}}})
			pod := podWith(v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}})
			err := m.Mount(t.Context(), pod)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v, want an error with %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(m.HostPath(pod, "v"), "kept")); err != nil {
				t.Error(err)
			}
			if err := m.Unmount(t.Context(), pod.UID); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(filepath.Join(dir, "kept")); err != nil {
				t.Errorf("after the pod: %v, want what is in the volume untouched", err)
			}
		})
	}
}

func TestClaimMadeForThePod(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "old"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pvc := &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p-v", UID: "claim"},
		Spec:       v1.PersistentVolumeClaimSpec{VolumeName: "pv"},
		Status:     v1.PersistentVolumeClaimStatus{Phase: v1.ClaimBound},
	}
	link := filepath.Join(t.TempDir(), "link") // what it leads to is given to the group
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	pv := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: v1.PersistentVolumeSpec{
		PersistentVolumeSource: v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: link}},
		ClaimRef:               &v1.ObjectReference{UID: "claim"},
	}}
	pod := podWith(v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{Ephemeral: &v1.EphemeralVolumeSource{}}})
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](1234)}
	m, client := newManager(t, pvc, pv)
	if err := m.Mount(t.Context(), pod); err == nil || !strings.Contains(err.Error(), "was not created for pod") {
		t.Errorf("somebody else's claim: got %v, want it refused", err)
	}
	pvc.OwnerReferences = []metav1.OwnerReference{{UID: pod.UID, Controller: ptr.To(true)}}
	if _, err := client.CoreV1().PersistentVolumeClaims("ns").Update(t.Context(), pvc, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	mustMount(t, m, pod)
	info, err := os.Stat(filepath.Join(dir, "old"))
	if err != nil {
		t.Fatal(err)
	}
	if gid := info.Sys().(*syscall.Stat_t).Gid; gid != 1234 || info.Mode().Perm() != 0o660 {
		t.Errorf("a file from before: got %v of group %d, want 0660 of group 1234", info.Mode(), gid)
	}
}

// TestOnePodAlone: a second pod does not get a volume for one pod before the first is taken down, and it is known which
// pod has a directory.
func TestOnePodAlone(t *testing.T) {
	dir := t.TempDir()
	pvc := &v1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "claim"},
		Spec:       v1.PersistentVolumeClaimSpec{VolumeName: "pv"},
		Status:     v1.PersistentVolumeClaimStatus{Phase: v1.ClaimBound},
	}
	pv := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: v1.PersistentVolumeSpec{
		AccessModes:            []v1.PersistentVolumeAccessMode{v1.ReadWriteOncePod},
		PersistentVolumeSource: v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: dir}},
		ClaimRef:               &v1.ObjectReference{UID: "claim"},
	}}
	m, _ := newManager(t, pvc, pv)
	first := podWith(v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}})
	second := first.DeepCopy()
	second.UID = "second"
	userIs := func(want types.UID) {
		t.Helper()
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if uid, err := m.UserOf(t.Context(), info); uid != string(want) || err != nil {
			t.Errorf("the volume is used by %q (%v), want %q", uid, err, want)
		}
	}
	userIs("")
	mustMount(t, m, first)
	userIs(first.UID)
	if err := m.Mount(t.Context(), second); err == nil || !strings.Contains(err.Error(), "volume uses the ReadWriteOncePod access mode and is already in use by another pod") {
		t.Errorf("the second pod: %v, want it refused", err)
	}
	if err := m.Unmount(t.Context(), first.UID); err != nil {
		t.Fatal(err)
	}
	userIs("")
	mustMount(t, m, second)
	userIs(second.UID)
	if err := m.Unmount(t.Context(), second.UID); err != nil {
		t.Fatal(err)
	}
}
