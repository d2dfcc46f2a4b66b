package admission

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/authn"
	"github.com/skiff-k8s/skiff/apiserver/authz"
)

const (
	defaultAccount    = "default"
	tokenVolumePrefix = "kube-api-access-"
	tokenMountPath    = "/var/run/secrets/kubernetes.io/serviceaccount"

	enforceMountableSecrets = "kubernetes.io/enforce-mountable-secrets"
)

// serviceAccount gives pods a service account and mounts its credentials.
func serviceAccount() Plugin {
	return Plugin{Name: "ServiceAccount",
		Mutate: func(ctx context.Context, a *Attributes) error {
			pod := a.newPod()
			if pod == nil {
				return nil
			}
			// The kubelet compares mirror pods with what it made.
			if isMirror(pod) {
				return checkMirrorPod(a, pod)
			}
			if pod.Spec.ServiceAccountName == "" {
				pod.Spec.ServiceAccountName = defaultAccount
			}
			// The old name of the field always agrees with the new one.
			pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
			account, err := findAccount(ctx, a, pod.Spec.ServiceAccountName)
			if err != nil {
				return err
			}
			if automounts(pod, account) {
				mountToken(pod)
			}
			if len(pod.Spec.ImagePullSecrets) == 0 {
				pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
			}
			return checkSecrets(a, pod, account)
		},
		Validate: func(ctx context.Context, a *Attributes) error {
			pod, isPod := a.New.(*corev1.Pod)
			addsEphemeral := a.Verb == update && a.isSub("", "pods", "ephemeralcontainers")
			if !isPod || a.newPod() == nil && !addsEphemeral {
				return nil
			}
			if isMirror(pod) {
				return checkMirrorPod(a, pod)
			}
			if pod.Spec.ServiceAccountName == "" {
				return a.forbid("no service account specified for pod %s/%s", a.Namespace, pod.Name)
			}
			account, err := findAccount(ctx, a, pod.Spec.ServiceAccountName)
			if err != nil {
				return err
			}
			return checkSecrets(a, pod, account)
		},
	}
}

// findAccount waits a second for the default account, which a controller makes
// for each new namespace.
func findAccount(ctx context.Context, a *Attributes, name string) (*corev1.ServiceAccount, error) {
	const attempts, pause = 20, 50 * time.Millisecond
	for i := 1; ; i++ {
		account, err := get[*corev1.ServiceAccount](ctx, a.Cluster, "", "serviceaccounts", a.Namespace, name)
		if err == nil {
			return account, nil
		}
		if apierrors.IsNotFound(err) {
			err = apierrors.NewNotFound(schema.GroupResource{Resource: "serviceaccount"}, name)
		}
		if !apierrors.IsNotFound(err) || name != defaultAccount || i == attempts {
			return nil, a.forbid("error looking up service account %s/%s: %w", a.Namespace, name, err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

func automounts(pod *corev1.Pod, account *corev1.ServiceAccount) bool {
	switch {
	case pod.Spec.AutomountServiceAccountToken != nil:
		return *pod.Spec.AutomountServiceAccountToken
	case account.AutomountServiceAccountToken != nil:
		return *account.AutomountServiceAccountToken
	}
	return true
}

// mountToken mounts the credentials in every container that has nothing else
// at their path.
func mountToken(pod *corev1.Pod) {
	volume := tokenVolumePrefix + utilrand.String(5)
	i := slices.IndexFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return strings.HasPrefix(v.Name, tokenVolumePrefix) })
	if i >= 0 {
		volume = pod.Spec.Volumes[i].Name
	}
	mounted := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for j := range containers {
			c := &containers[j]
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenMountPath }) {
				continue
			}
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: volume, ReadOnly: true, MountPath: tokenMountPath})
			mounted = true
		}
	}
	if mounted && i < 0 {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{Projected: tokenSource()}})
	}
}

// tokenSource projects a token bound to the pod, the certificate of the API
// and the namespace.
func tokenSource() *corev1.ProjectedVolumeSource {
	return &corev1.ProjectedVolumeSource{
		DefaultMode: ptr.To(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Path: "token", ExpirationSeconds: ptr.To(int64(authn.ProjectedTokenSeconds)),
			}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path:     "namespace",
				FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}
}

// checkMirrorPod keeps nodes from reading secrets by way of pods they make.
func checkMirrorPod(a *Attributes, pod *corev1.Pod) error {
	if pod.Spec.ServiceAccountName != "" {
		return a.forbid("a mirror pod may not reference service accounts")
	}
	if len(authz.PodReferences(pod).Secrets) > 0 {
		return a.forbid("a mirror pod may not reference secrets")
	}
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil {
				return a.forbid("a mirror pod may not use ServiceAccountToken volume projections")
			}
		}
	}
	return nil
}

// checkSecrets holds pods to the secrets their account lists, where the account
// asks for it.
func checkSecrets(a *Attributes, pod *corev1.Pod, account *corev1.ServiceAccount) error {
	if enforce, _ := strconv.ParseBool(account.Annotations[enforceMountableSecrets]); !enforce {
		return nil
	}
	allowed := make(map[string]bool)
	for _, s := range account.Secrets {
		allowed[s.Name] = true
	}
	for use := range secretUses(pod) {
		if !allowed[use.secret] {
			return a.forbid("%s secret.secretName=%q is not allowed because service account %s does not reference that secret",
				use.where, use.secret, account.Name)
		}
	}
	for i, ref := range pod.Spec.ImagePullSecrets {
		if !slices.Contains(account.ImagePullSecrets, ref) {
			return a.forbid("imagePullSecrets[%d].name=%q is not allowed because service account %s does not reference that imagePullSecret",
				i, ref.Name, account.Name)
		}
	}
	return nil
}
