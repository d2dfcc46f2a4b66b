package storage

import (
	"errors"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestProtect(t *testing.T) {
	going := &metav1.Time{Time: time.Now()}
	for _, test := range []struct {
		name    string
		meta    metav1.ObjectMeta
		used    bool
		err     error
		want    []string
		changed bool
	}{
		{"lives without", metav1.ObjectMeta{Finalizers: []string{"x"}}, false, nil, []string{"x", claimFinalizer}, true},
		{"lives with", metav1.ObjectMeta{Finalizers: []string{claimFinalizer}}, false, nil, nil, false},
		{"goes and is used", metav1.ObjectMeta{DeletionTimestamp: going, Finalizers: []string{claimFinalizer}}, true, nil, nil, false},
		{"goes and is not used", metav1.ObjectMeta{DeletionTimestamp: going, Finalizers: []string{claimFinalizer, "x"}}, false, nil, []string{"x"}, true},
		{"goes without", metav1.ObjectMeta{DeletionTimestamp: going, Finalizers: []string{"x"}}, false, nil, nil, false},
		{"goes and nobody knows", metav1.ObjectMeta{DeletionTimestamp: going, Finalizers: []string{claimFinalizer}}, false, errors.New("no"), nil, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, changed, err := protect(&test.meta, claimFinalizer, func() (bool, error) { return test.used, test.err })
			if !slices.Equal(got, test.want) || changed != test.changed || err != test.err {
				t.Errorf("got %v, %v, %v, want %v, %v, %v", got, changed, err, test.want, test.changed, test.err)
			}
		})
	}
}

func TestClaimsOf(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "a", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}},
		{Name: "b", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
		{Name: "c", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}}}
	if got, want := claimsOf(pod), []string{"claim", "p-b"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
