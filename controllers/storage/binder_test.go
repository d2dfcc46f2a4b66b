package storage

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

func TestWhomAChangedVolumeConcerns(t *testing.T) {
	claims := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	claim := func(name, class, size string, change func(*corev1.PersistentVolumeClaim)) {
		c := &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
			Spec: corev1.PersistentVolumeClaimSpec{
				StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
			},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
		}
		if change != nil {
			change(c)
		}
		if err := claims.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	claim("small", "fast", "1Gi", nil)
	claim("large", "fast", "100Gi", nil)
	claim("other", "slow", "1Gi", nil)
	claim("bound", "fast", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimBound })
	claim("named", "slow", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = "pv" })
	b := &binder{claims: corelisters.NewPersistentVolumeClaimLister(claims)}

	volume := func(phase corev1.PersistentVolumePhase, owner string) *corev1.PersistentVolume {
		pv := &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: "pv"},
			Spec: corev1.PersistentVolumeSpec{
				StorageClassName: "fast", AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("10Gi")},
			},
			Status: corev1.PersistentVolumeStatus{Phase: phase},
		}
		if owner != "" {
			pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "ns", Name: owner, UID: "uid"}
		}
		return pv
	}
	touched := volume(corev1.VolumeAvailable, "")
	touched.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "m"}}
	for _, test := range []struct {
		name    string
		old, pv *corev1.PersistentVolume
		want    string
	}{
		{"comes and is free", nil, volume(corev1.VolumeAvailable, ""), "[ns/named ns/small pv]"},
		{"becomes free", volume(corev1.VolumePending, ""), volume(corev1.VolumeAvailable, ""), "[ns/named ns/small pv]"},
		{"is bound", volume(corev1.VolumeAvailable, ""), volume(corev1.VolumeBound, "bound"), "[ns/bound ns/named pv]"},
		{"changes nothing that matters", volume(corev1.VolumeAvailable, ""), touched, "[ns/named pv]"},
		{"goes", volume(corev1.VolumeAvailable, ""), nil, "[ns/named]"},
	} {
		got := []string{}
		for _, key := range b.volumeChanged(test.old, test.pv) {
			got = append(got, key.String())
		}
		slices.Sort(got)
		if fmt.Sprint(got) != test.want {
			t.Errorf("%s: got %v, want %s", test.name, got, test.want)
		}
	}
}
