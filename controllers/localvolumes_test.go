package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/storage/volume"

	"github.com/skiff-k8s/skiff/controllers"
	"github.com/skiff-k8s/skiff/controllers/storage"
)

// disks are the directories of nodes, in memory.
type disks struct {
	mu   sync.Mutex
	full map[string]bool
	away error
	made map[string]string // nodes by name of the directory
}

func (d *disks) Make(_ context.Context, node, name string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.away != nil:
		return "", d.away
	case d.full[node]:
		return "", fmt.Errorf("%w: mkdir: no space left on device", storage.ErrNoSpace)
	}
	d.made[name] = node
	return "/volumes/" + name, nil
}

func (d *disks) Wipe(_ context.Context, node, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.away != nil:
		return d.away
	case d.made[name] != "" && d.made[name] != node:
		return fmt.Errorf("%s is on %q, not %q", name, d.made[name], node)
	}
	delete(d.made, name)
	return nil
}

func (d *disks) be(change func(*disks)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

func (d *disks) has(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.made[name]
	return ok
}

// startLocal starts a world with a class of local volumes.
func startLocal(t *testing.T, change ...func(*storagev1.StorageClass)) (*world, *disks) {
	d := &disks{made: map[string]string{}, full: map[string]bool{}}
	w := startWith(t, controllers.Config{NodeVolumes: d})
	class := &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: storage.LocalProvisionerName,
		VolumeBindingMode: ptr(storagev1.VolumeBindingWaitForFirstConsumer), AllowVolumeExpansion: ptr(true),
	}
	for _, f := range change {
		f(class)
	}
	if _, err := w.StorageV1().StorageClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range nodes {
		w.eventually("node "+name+" is ready", func() error { // no volume is made on another
			node, err := w.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
			if err == nil && !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
			}) {
				err = fmt.Errorf("conditions %v", node.Status.Conditions)
			}
			return err
		})
	}
	return w, d
}

// changeClaim changes a claim, whoever else writes to it.
func (w *world) changeClaim(name string, change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	w.t.Helper()
	var changed *corev1.PersistentVolumeClaim
	if err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		claim, err := w.CoreV1().PersistentVolumeClaims(w.namespace).Get(w.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(claim)
		changed, err = w.CoreV1().PersistentVolumeClaims(w.namespace).Update(w.t.Context(), claim, metav1.UpdateOptions{})
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	return changed
}

// selectNode is the scheduler's choice; it returns the name of the volume to come.
func (w *world) selectNode(claim, node string) (volumeName string) {
	w.t.Helper()
	changed := w.changeClaim(claim, func(c *corev1.PersistentVolumeClaim) {
		metav1.SetMetaDataAnnotation(&c.ObjectMeta, volume.AnnSelectedNode, node)
	})
	return "pvc-" + string(changed.UID)
}

// toldOf waits for an event of a claim or volume.
func (w *world) toldOf(name, reason, text string) {
	w.t.Helper()
	w.eventually(reason+" of "+name, func() error {
		list, err := w.CoreV1().Events(metav1.NamespaceAll).List(w.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
		if err != nil {
			return err
		}
		var all []string
		for _, e := range list.Items {
			if e.Reason == reason && strings.Contains(e.Message, text) {
				return nil
			}
			all = append(all, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("got %q", all)
	})
}

func (w *world) volumeGone(name string) {
	w.t.Helper()
	w.eventually("the end of volume "+name, func() error {
		_, err := w.CoreV1().PersistentVolumes().Get(w.t.Context(), name, metav1.GetOptions{})
		return gone(err)
	})
}

// wipedWith deletes a claim, and sees that its volume goes and was wiped before.
func (w *world) wipedWith(claim string, d *disks, name string) {
	w.t.Helper()
	if err := w.CoreV1().PersistentVolumeClaims(w.namespace).Delete(w.t.Context(), claim, metav1.DeleteOptions{}); err != nil {
		w.t.Fatal(err)
	}
	w.volumeGone(name)
	if d.has(name) {
		w.t.Error("the volume is gone and was not wiped")
	}
}

func TestLocalVolumeIsMadeAndWiped(t *testing.T) {
	w, d := startLocal(t)
	w.claim("data", "1Gi", "local")
	w.toldOf("data", "WaitForFirstConsumer", "waiting for first consumer")
	name := w.selectNode("data", "n2")
	w.bound("data", corev1.ClaimBound, name)
	w.volumeIs(name, corev1.VolumeBound)
	w.toldOf("data", "ProvisioningSucceeded", "Successfully provisioned volume "+name)
	pv, err := w.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes {
		err := volume.CheckNodeAffinity(pv, map[string]string{corev1.LabelHostname: node})
		if (err == nil) != (node == "n2") {
			t.Errorf("the volume on n2 and node %s: %v", node, err)
		}
	}
	size := pv.Spec.Capacity[corev1.ResourceStorage]
	if pv.Spec.Local == nil || pv.Spec.Local.Path != "/volumes/"+name || size.String() != "1Gi" || pv.Spec.StorageClassName != "local" ||
		pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		t.Errorf("got the volume %+v", pv.Spec)
	}

	if err := w.CoreV1().PersistentVolumes().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.claim("other", "1Gi", "local")
	w.bound("other", corev1.ClaimPending, "") // by then the loop may have looked at the volume
	if !d.has(name) {
		t.Error("a volume that has its claim still was wiped")
	}
	w.wipedWith("data", d, name)
}

func TestLocalVolumeWaitsForItsNode(t *testing.T) {
	w, d := startLocal(t)
	w.claim("data", "1Gi", "local")
	name := w.selectNode("data", "n1")
	w.bound("data", corev1.ClaimBound, name)
	d.be(func(d *disks) { d.away = errors.New("connection refused") })
	if err := w.CoreV1().PersistentVolumeClaims(w.namespace).Delete(t.Context(), "data", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.toldOf(name, "VolumeFailedDelete", "connection refused")
	w.volumeIs(name, corev1.VolumeReleased)
	d.be(func(d *disks) { d.away = nil })
	w.volumeGone(name)

	w.claim("data", "1Gi", "local")
	name = w.selectNode("data", "n1")
	w.bound("data", corev1.ClaimBound, name)
	node, err := w.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.CoreV1().Nodes().Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the end of the claim", func() error {
		if err := w.CoreV1().PersistentVolumeClaims(w.namespace).Delete(t.Context(), "data", metav1.DeleteOptions{}); err != nil {
			return gone(err)
		}
		return errors.New("the claim is there still")
	})
	w.toldOf(name, "VolumeFailedDelete", "the node of the volume is not there")
	if !d.has(name) {
		t.Error("a volume was wiped on a node that is not there")
	}
	node.ResourceVersion = ""
	if _, err := w.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.volumeGone(name)
	if d.has(name) {
		t.Error("the node is back, the volume gone, and not wiped")
	}
}

// TestLocalVolumeGoesElsewhere: the scheduler is asked again when there is no room on a node, or no node.
func TestLocalVolumeGoesElsewhere(t *testing.T) {
	w, d := startLocal(t)
	d.be(func(d *disks) { d.full["n1"] = true })
	for claim, test := range map[string]struct{ node, event string }{
		"full": {"n1", "no space left on device"},
		"gone": {"n9", `node "n9" is not there`},
	} {
		w.claim(claim, "1Gi", "local")
		w.selectNode(claim, test.node)
		w.toldOf(claim, "ProvisioningFailed", `failed to provision volume with StorageClass "local": `)
		w.toldOf(claim, "ProvisioningFailed", test.event)
		w.eventually("another choice for "+claim, func() error {
			c, err := w.CoreV1().PersistentVolumeClaims(w.namespace).Get(t.Context(), claim, metav1.GetOptions{})
			if err == nil && c.Annotations[volume.AnnSelectedNode] != "" {
				err = fmt.Errorf("%v", c.Annotations)
			}
			return err
		})
		w.bound(claim, corev1.ClaimBound, w.selectNode(claim, "n2"))
	}
}

// TestFullNodeChosenAgain: a scheduler that insists on a node without room does not have it asked all the time.
func TestFullNodeChosenAgain(t *testing.T) {
	w, d := startLocal(t)
	d.be(func(d *disks) { d.full["n1"] = true })
	w.claim("data", "1Gi", "local")
	begin := time.Now()
	for range 3 {
		w.selectNode("data", "n1")
		w.eventually("another choice", func() error {
			c, err := w.CoreV1().PersistentVolumeClaims(w.namespace).Get(t.Context(), "data", metav1.GetOptions{})
			if err == nil && c.Annotations[volume.AnnSelectedNode] != "" {
				err = fmt.Errorf("%v", c.Annotations)
			}
			return err
		})
	}
	if took := time.Since(begin); took < 3*time.Second { // a second, then two
		t.Errorf("the node was asked three times within %v", took)
	}
	d.be(func(d *disks) { d.full["n1"] = false })
	w.bound("data", corev1.ClaimBound, w.selectNode("data", "n1"))
}

func TestLocalVolumeIsRetained(t *testing.T) {
	w, d := startLocal(t, func(c *storagev1.StorageClass) { c.ReclaimPolicy = ptr(corev1.PersistentVolumeReclaimRetain) })
	w.claim("data", "1Gi", "local")
	name := w.selectNode("data", "n1")
	w.bound("data", corev1.ClaimBound, name)
	if err := w.CoreV1().PersistentVolumeClaims(w.namespace).Delete(t.Context(), "data", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.volumeIs(name, corev1.VolumeReleased)
	w.eventually("the volume given back", func() error {
		pv, err := w.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		pv.Spec.ClaimRef = nil
		_, err = w.CoreV1().PersistentVolumes().Update(t.Context(), pv, metav1.UpdateOptions{})
		return err
	})
	w.volumeIs(name, corev1.VolumeAvailable)
	w.claim("again", "1Gi", "local", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = name })
	w.bound("again", corev1.ClaimBound, name)

	// From now on it is to be wiped.
	w.eventually("another policy", func() error {
		pv, err := w.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
		_, err = w.CoreV1().PersistentVolumes().Update(t.Context(), pv, metav1.UpdateOptions{})
		return err
	})
	if !d.has(name) {
		t.Error("what was to be retained was wiped")
	}
	w.wipedWith("again", d, name)
}

func TestLocalVolumeGrows(t *testing.T) {
	w, _ := startLocal(t)
	w.claim("data", "1Gi", "local")
	name := w.selectNode("data", "n1")
	w.bound("data", corev1.ClaimBound, name)
	w.changeClaim("data", func(c *corev1.PersistentVolumeClaim) {
		c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("3Gi")
	})
	w.eventually("the new size", func() error {
		claim, err := w.CoreV1().PersistentVolumeClaims(w.namespace).Get(t.Context(), "data", metav1.GetOptions{})
		if err != nil {
			return err
		}
		pv, err := w.CoreV1().PersistentVolumes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		of, allocated, is := claim.Status.Capacity.Storage(), claim.Status.AllocatedResources.Storage(), pv.Spec.Capacity.Storage()
		if of.String() != "3Gi" || allocated.String() != "3Gi" || is.String() != "3Gi" || len(claim.Status.Conditions) > 0 {
			return fmt.Errorf("volume %v, claim %v (allocated %v), conditions %v", is, of, allocated, claim.Status.Conditions)
		}
		return nil
	})
	w.toldOf("data", "VolumeResizeSuccessful", "Resize volume succeeded")
}

// TestLocalVolumesThatCannotBe: what a directory cannot give is refused with the reason.
func TestLocalVolumesThatCannotBe(t *testing.T) {
	w, d := startLocal(t)
	for name, test := range map[string]struct {
		change func(*corev1.PersistentVolumeClaim)
		why    string
	}{
		"block": {func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = ptr(corev1.PersistentVolumeBlock) }, "block device"},
		"many": {func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
		}, "access modes"},
		"selected": {func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}
		}, "Selector"},
	} {
		w.claim(name, "1Gi", "local", test.change)
		w.selectNode(name, "n1")
		w.toldOf(name, "ProvisioningFailed", test.why)
		w.bound(name, corev1.ClaimPending, "")
	}
	d.be(func(d *disks) {
		if len(d.made) > 0 {
			t.Errorf("made %v", slices.Collect(maps.Keys(d.made)))
		}
	})
}
