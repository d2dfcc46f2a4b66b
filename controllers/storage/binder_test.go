package storage

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// TestClassIsNewerThanTheCache: caches that never heard of a class stand for ones that hear of it late. The claim waits for its
// pod all the same, though a volume would fit it.
func TestClassIsNewerThanTheCache(t *testing.T) {
	ctx := t.Context()
	client := kubernetes.NewForConfigOrDie(apiservertest.Config(apiservertest.Start(t, nil), "admin"))
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(client.StorageV1().StorageClasses().Create(ctx, &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: LocalProvisionerName,
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
	}, metav1.CreateOptions{}))
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	pv, err := client.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "disk"},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, StorageClassName: "local",
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/disk"}},
		}}, metav1.CreateOptions{})
	must(pv, err)
	pv.Status.Phase = corev1.VolumeAvailable
	pv, err = client.CoreV1().PersistentVolumes().UpdateStatus(ctx, pv, metav1.UpdateOptions{})
	must(pv, err)
	claim, err := client.CoreV1().PersistentVolumeClaims("default").Create(ctx, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: ptr.To("local"), AccessModes: modes, Resources: corev1.VolumeResourceRequirements{Requests: size},
		}}, metav1.CreateOptions{})
	must(claim, err)

	deps := withoutNews(client)
	loop := Binder(deps)
	add(t, deps.Informers.Core().V1().PersistentVolumes().Informer(), pv)
	add(t, deps.Informers.Core().V1().PersistentVolumeClaims().Informer(), claim)
	must(loop.Sync(ctx, reconcile.Key{Namespace: claim.Namespace, Name: claim.Name}))
	claim, err = client.CoreV1().PersistentVolumeClaims("default").Get(ctx, "data", metav1.GetOptions{})
	must(claim, err)
	if claim.Spec.VolumeName != "" || claim.Status.Phase != corev1.ClaimPending {
		t.Errorf("the claim is %s with volume %q before it has a pod", claim.Status.Phase, claim.Spec.VolumeName)
	}
}

// withoutNews is for a loop whose caches know only what a test adds to them: nobody starts their informers.
func withoutNews(client kubernetes.Interface) Deps {
	return Deps{
		Client: client, Informers: informers.NewSharedInformerFactory(client, 0), Workers: 1,
		Recorder: func(string) record.EventRecorder { return record.NewFakeRecorder(10) },
	}
}

func add(t *testing.T, informer cache.SharedIndexInformer, object any) {
	t.Helper()
	if err := informer.GetStore().Add(object); err != nil {
		t.Fatal(err)
	}
}

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
