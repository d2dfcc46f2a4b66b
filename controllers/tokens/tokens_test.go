package tokens

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/serviceaccount"
)

func TestSentenceOf(t *testing.T) {
	const year = 365 * 24 * time.Hour
	now := time.Date(2030, 6, 15, 12, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name              string
		age               time.Duration
		lastUsed, invalid string
		deleted           bool
		want              sentence
	}{
		{"young", year / 2, "", "", false, stays},
		{"exactly old enough", year, "", "", false, stays},
		{"never used", 2 * year, "", "", false, becomesInvalid},
		{"used long ago", 3 * year, "2029-06-14", "", false, becomesInvalid},
		{"used a period ago to the day", 3 * year, "2029-06-15", "", false, stays},
		{"used with a label that cannot be read", 3 * year, "yesterday", "", false, stays},
		{"invalid for a while", 3 * year, "", "2030-01-01", false, stays},
		{"invalid for a period to the day", 3 * year, "", "2029-06-15", false, stays},
		{"invalid for long", 3 * year, "2028-01-01", "2029-06-14", false, goes},
		{"invalid for long, but used since", 3 * year, "2030-06-01", "2029-06-14", false, stays},
		{"invalid since a day that cannot be read", 3 * year, "", "never", false, becomesInvalid},
		{"goes already", 3 * year, "", "2029-06-14", true, stays},
	} {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-test.age)), Labels: map[string]string{}}}
		if test.lastUsed != "" {
			secret.Labels[serviceaccount.LastUsedLabel] = test.lastUsed
		}
		if test.invalid != "" {
			secret.Labels[serviceaccount.InvalidSinceLabel] = test.invalid
		}
		if test.deleted {
			secret.DeletionTimestamp = &metav1.Time{Time: now}
		}
		if got := sentenceOf(secret, now, year); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
	}
}

func TestSecretsOf(t *testing.T) {
	ref := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	key := func(name string) []corev1.EnvVar {
		return []corev1.EnvVar{{Name: "plain"}, {ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref(name)}}}}
	}
	csi := ref("csi")
	got := secretsOf(&corev1.PodSpec{
		ImagePullSecrets:    []corev1.LocalObjectReference{ref("pull")},
		InitContainers:      []corev1.Container{{Env: key("init")}},
		Containers:          []corev1.Container{{EnvFrom: []corev1.EnvFromSource{{}, {SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref("all")}}}}},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Env: key("debug")}}},
		Volumes: []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "volume"}}},
			{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{}, {Secret: &corev1.SecretProjection{LocalObjectReference: ref("projected")}}}}}},
			{VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{NodePublishSecretRef: &csi}}},
			{VolumeSource: corev1.VolumeSource{RBD: &corev1.RBDVolumeSource{}}},
		},
	})
	if want := []string{"pull", "init", "all", "debug", "volume", "projected", "csi"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
