package controllers_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (w *world) volume(name, size, class string) {
	w.t.Helper()
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, StorageClassName: class,
		AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data/" + name}},
	}}
	if _, err := w.CoreV1().PersistentVolumes().Create(w.t.Context(), pv, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) claim(name, size, class string, change ...func(*corev1.PersistentVolumeClaim)) {
	w.t.Helper()
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
	}}
	for _, f := range change {
		f(claim)
	}
	if _, err := w.CoreV1().PersistentVolumeClaims(w.namespace).Create(w.t.Context(), claim, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// bound waits until a claim is in a phase and has a volume, or none.
func (w *world) bound(claim string, phase corev1.PersistentVolumeClaimPhase, volume string) {
	w.t.Helper()
	w.eventually("claim "+claim, func() error {
		c, err := w.CoreV1().PersistentVolumeClaims(w.namespace).Get(w.t.Context(), claim, metav1.GetOptions{})
		if err == nil && (c.Status.Phase != phase || c.Spec.VolumeName != volume) {
			err = fmt.Errorf("%s with volume %q, want %s with %q", c.Status.Phase, c.Spec.VolumeName, phase, volume)
		}
		return err
	})
}

func (w *world) volumeIs(name string, phase corev1.PersistentVolumePhase) {
	w.t.Helper()
	w.eventually("volume "+name, func() error {
		pv, err := w.CoreV1().PersistentVolumes().Get(w.t.Context(), name, metav1.GetOptions{})
		if err == nil && pv.Status.Phase != phase {
			err = fmt.Errorf("%s, want %s", pv.Status.Phase, phase)
		}
		return err
	})
}

func TestClaimsGetVolumes(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	w.volume("small", "1Gi", "")
	w.volume("large", "10Gi", "")
	w.volume("other", "10Gi", "other")
	for _, name := range []string{"small", "large", "other"} {
		w.volumeIs(name, corev1.VolumeAvailable)
	}
	w.claim("medium", "2Gi", "")
	w.bound("medium", corev1.ClaimBound, "large")
	w.volumeIs("large", corev1.VolumeBound)
	w.claim("named", "1Gi", "other", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "other" })
	w.bound("named", corev1.ClaimBound, "other")

	if err := w.CoreV1().PersistentVolumeClaims(w.namespace).Delete(ctx, "medium", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.volumeIs("large", corev1.VolumeReleased)
	w.claim("late", "2Gi", "")
	w.claim("little", "1Gi", "")
	w.bound("little", corev1.ClaimBound, "small")
	w.bound("late", corev1.ClaimPending, "") // what is on a released volume is not for others

	if err := w.CoreV1().PersistentVolumes().Delete(ctx, "large", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the end of a released volume", func() error {
		_, err := w.CoreV1().PersistentVolumes().Get(ctx, "large", metav1.GetOptions{})
		return gone(err)
	})
	w.volume("larger", "3Gi", "")
	w.bound("late", corev1.ClaimBound, "larger")
}

func TestClaimWaitsForItsPod(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	class := &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: "kubernetes.io/no-provisioner",
		VolumeBindingMode: ptr(storagev1.VolumeBindingWaitForFirstConsumer),
	}
	if _, err := w.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.claim("data", "1Gi", "local")
	w.volume("disk", "1Gi", "local")
	w.volumeIs("disk", corev1.VolumeAvailable)
	w.claim("plain", "1Gi", "")
	w.volume("any", "1Gi", "")
	w.bound("plain", corev1.ClaimBound, "any") // by then the loop has looked at the other, too
	w.bound("data", corev1.ClaimPending, "")

	claim, err := w.CoreV1().PersistentVolumeClaims(w.namespace).Get(ctx, "data", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("the scheduler's choice", func() error {
		pv, err := w.CoreV1().PersistentVolumes().Get(ctx, "disk", metav1.GetOptions{})
		if err != nil {
			return err
		}
		pv.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: w.namespace, Name: claim.Name, UID: claim.UID}
		_, err = w.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
		return err
	})
	w.bound("data", corev1.ClaimBound, "disk")
	w.volumeIs("disk", corev1.VolumeBound)
}

// TestClaimWithTwoVolumes: a claim takes one of two volumes that name it, and the other is free again. The scheduler writes that
// into volumes before the claim is bound; it may have done so twice.
func TestClaimWithTwoVolumes(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	class := &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: "kubernetes.io/no-provisioner",
		VolumeBindingMode: ptr(storagev1.VolumeBindingWaitForFirstConsumer),
	}
	if _, err := w.StorageV1().StorageClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for round := range 5 { // for it depends on what the loop looks at first
		name := fmt.Sprint("data-", round)
		w.claim(name, "1Gi", "local")
		claim, err := w.CoreV1().PersistentVolumeClaims(w.namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, disk := range []string{"a", "b"} {
			pv := &corev1.PersistentVolume{
				ObjectMeta: metav1.ObjectMeta{Name: name + disk, Annotations: map[string]string{"pv.kubernetes.io/bound-by-controller": "yes"}},
				Spec: corev1.PersistentVolumeSpec{
					Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: "local",
					PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}},
					ClaimRef:               &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: w.namespace, Name: name, UID: claim.UID},
				},
			}
			if _, err := w.CoreV1().PersistentVolumes().Create(ctx, pv, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		w.eventually("one volume of two", func() error {
			claim, err := w.CoreV1().PersistentVolumeClaims(w.namespace).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if claim.Status.Phase != corev1.ClaimBound {
				return fmt.Errorf("the claim is %s", claim.Status.Phase)
			}
			other := name + "a"
			if claim.Spec.VolumeName == other {
				other = name + "b"
			}
			pv, err := w.CoreV1().PersistentVolumes().Get(ctx, other, metav1.GetOptions{})
			if err == nil && (pv.Spec.ClaimRef != nil || pv.Status.Phase != corev1.VolumeAvailable) {
				err = fmt.Errorf("the claim has %s, and %s is %s for %v", claim.Spec.VolumeName, other, pv.Status.Phase, pv.Spec.ClaimRef)
			}
			return err
		})
		for _, disk := range []string{"a", "b"} { // so that the next round has its own two alone
			if err := w.CoreV1().PersistentVolumes().Delete(ctx, name+disk, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestPodBringsItsClaim(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	w.claim("p-strange", "1Gi", "")
	volume := func(name string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
			VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"from": "template"}},
				Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
				},
			},
		}}}
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: template("p", "x").Spec}
	pod.Spec.Volumes = []corev1.Volume{volume("scratch"), volume("strange")}
	if _, err := w.CoreV1().Pods(w.namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.bound("p-scratch", corev1.ClaimPending, "")
	w.eventually("word of the claim that is not the pod's", func() error {
		events, err := w.CoreV1().Events(w.namespace).List(ctx, metav1.ListOptions{FieldSelector: "reason=FailedBinding,involvedObject.kind=Pod"})
		if err == nil && len(events.Items) == 0 {
			err = fmt.Errorf("no event")
		}
		return err
	})
	if err := w.CoreV1().Pods(w.namespace).Delete(ctx, "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the end of the claim with its pod", func() error {
		_, err := w.CoreV1().PersistentVolumeClaims(w.namespace).Get(ctx, "p-scratch", metav1.GetOptions{})
		return gone(err)
	})
	w.bound("p-strange", corev1.ClaimPending, "")
}
