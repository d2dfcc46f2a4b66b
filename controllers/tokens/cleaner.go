package tokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/serviceaccount"
)

// cleanEvery is how often the cleaner looks: what it waits for are days.
const cleanEvery = 24 * time.Hour

var everything = reconcile.Key{Name: "tokens"}

// Cleaner takes away tokens in Secrets that were made without anybody having asked for them, which old clusters did
// for each service account: such Secrets are on the account's list. One that was not used for a period, and that no
// pod names, is marked as invalid, so that it is refused; one that was marked for another period is deleted. It
// looks once a day, and only when the use of tokens was tracked for a period.
func Cleaner(d Deps, period time.Duration) reconcile.Controller {
	accounts, pods := d.Informers.Core().V1().ServiceAccounts(), d.Informers.Core().V1().Pods()
	c := &cleaner{client: d.Client, accounts: accounts.Lister(), pods: pods.Lister(), period: period}
	var once reconcile.Feed
	once.Add(everything)
	return reconcile.Controller{
		Name:  "LegacyServiceAccountTokenCleaner",
		Watch: []reconcile.Source{reconcile.Synced(accounts.Informer()), reconcile.Synced(pods.Informer()), once.Source()},
		Sync: func(ctx context.Context, _ reconcile.Key) (time.Duration, error) {
			return cleanEvery, c.clean(ctx, time.Now())
		},
	}
}

type cleaner struct {
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister
	pods     corelisters.PodLister
	period   time.Duration
}

func (c *cleaner) clean(ctx context.Context, now time.Time) error {
	since, err := c.trackedSince(ctx)
	if err != nil {
		return fmt.Errorf("read since when tokens are tracked: %w", err)
	}
	if now.Before(since.Add(c.period)) {
		return nil
	}
	var options metav1.ListOptions
	onlyTokens(&options)
	secrets, err := c.client.CoreV1().Secrets(metav1.NamespaceAll).List(ctx, options)
	if err != nil {
		return err
	}
	named := map[string]map[string]bool{} // by pods, by namespace
	var errs []error
	for i := range secrets.Items {
		secret := &secrets.Items[i]
		if named[secret.Namespace] == nil {
			if named[secret.Namespace], err = c.namedByPods(secret.Namespace); err != nil {
				return err
			}
		}
		if !named[secret.Namespace][secret.Name] && c.listed(secret) {
			errs = append(errs, c.apply(ctx, secret, sentenceOf(secret, now, c.period), now))
		}
	}
	return errors.Join(errs...)
}

// trackedSince is the end of the day on which tracking began.
func (c *cleaner) trackedSince(ctx context.Context) (time.Time, error) {
	tracking, err := c.client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, serviceaccount.TrackingConfigMap, metav1.GetOptions{})
	if err != nil {
		return time.Time{}, err
	}
	day, err := serviceaccount.ParseDate(tracking.Data[serviceaccount.TrackedSinceKey])
	return day.AddDate(0, 0, 1), err
}

// listed tells whether the service account of a Secret lists it, as those do for which it was made unasked.
func (c *cleaner) listed(secret *corev1.Secret) bool {
	named := accountOf(secret)
	sa, err := c.accounts.ServiceAccounts(secret.Namespace).Get(named.name)
	return err == nil && named.isOf(sa) && slices.ContainsFunc(sa.Secrets, func(ref corev1.ObjectReference) bool { return ref.Name == secret.Name })
}

// sentence is what is done about a token.
type sentence int

const (
	stays sentence = iota
	becomesInvalid
	goes
)

// sentenceOf decides about a token that was made unasked and that no pod names. Days are compared as texts, which
// sort as the days do.
func sentenceOf(secret *corev1.Secret, now time.Time, period time.Duration) sentence {
	horizon := now.Add(-period)
	lastDay := serviceaccount.Date(horizon)
	if secret.DeletionTimestamp != nil || !secret.CreationTimestamp.Time.Before(horizon) {
		return stays
	}
	if used, ok := secret.Labels[serviceaccount.LastUsedLabel]; ok {
		if _, err := serviceaccount.ParseDate(used); err != nil || used >= lastDay {
			return stays // what cannot be read may be recent
		}
	}
	invalidSince := secret.Labels[serviceaccount.InvalidSinceLabel]
	if _, err := serviceaccount.ParseDate(invalidSince); err != nil {
		return becomesInvalid
	}
	if invalidSince >= lastDay {
		return stays
	}
	return goes
}

func (c *cleaner) apply(ctx context.Context, secret *corev1.Secret, s sentence, now time.Time) error {
	client := c.client.CoreV1().Secrets(secret.Namespace)
	var err error
	switch s {
	case becomesInvalid:
		var patch []byte
		if patch, err = json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": secret.UID, "labels": map[string]string{serviceaccount.InvalidSinceLabel: serviceaccount.Date(now)},
		}}); err == nil {
			_, err = client.Patch(ctx, secret.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		}
	case goes:
		// Not if it was changed since, for that may be a use.
		err = client.Delete(ctx, secret.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &secret.ResourceVersion}})
	}
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("clean secret %s/%s: %w", secret.Namespace, secret.Name, err)
}

func (c *cleaner) namedByPods(namespace string) (map[string]bool, error) {
	pods, err := c.pods.Pods(namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, pod := range pods {
		for _, name := range secretsOf(&pod.Spec) {
			names[name] = true
		}
	}
	return names, nil
}

// secretsOf lists the Secrets that a pod names.
func secretsOf(spec *corev1.PodSpec) []string {
	var names []string
	for _, ref := range spec.ImagePullSecrets {
		names = append(names, ref.Name)
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		names = append(names, secretsOfContainer(c.Env, c.EnvFrom)...)
	}
	for _, c := range spec.EphemeralContainers {
		names = append(names, secretsOfContainer(c.Env, c.EnvFrom)...)
	}
	for i := range spec.Volumes {
		names = append(names, secretsOfVolume(&spec.Volumes[i].VolumeSource)...)
	}
	return names
}

func secretsOfContainer(env []corev1.EnvVar, from []corev1.EnvFromSource) []string {
	var names []string
	for _, source := range from {
		if source.SecretRef != nil {
			names = append(names, source.SecretRef.Name)
		}
	}
	for _, variable := range env {
		if variable.ValueFrom != nil && variable.ValueFrom.SecretKeyRef != nil {
			names = append(names, variable.ValueFrom.SecretKeyRef.Name)
		}
	}
	return names
}

func secretsOfVolume(v *corev1.VolumeSource) []string {
	switch {
	case v.Secret != nil:
		return []string{v.Secret.SecretName}
	case v.AzureFile != nil:
		return []string{v.AzureFile.SecretName}
	case v.Projected != nil:
		var names []string
		for _, source := range v.Projected.Sources {
			if source.Secret != nil {
				names = append(names, source.Secret.Name)
			}
		}
		return names
	}
	if ref := secretRefOf(v); ref != nil {
		return []string{ref.Name}
	}
	return nil
}

// secretRefOf is the credentials that a volume of a storage system names.
func secretRefOf(v *corev1.VolumeSource) *corev1.LocalObjectReference {
	switch {
	case v.CephFS != nil:
		return v.CephFS.SecretRef
	case v.Cinder != nil:
		return v.Cinder.SecretRef
	case v.FlexVolume != nil:
		return v.FlexVolume.SecretRef
	case v.RBD != nil:
		return v.RBD.SecretRef
	case v.ScaleIO != nil:
		return v.ScaleIO.SecretRef
	case v.ISCSI != nil:
		return v.ISCSI.SecretRef
	case v.StorageOS != nil:
		return v.StorageOS.SecretRef
	case v.CSI != nil:
		return v.CSI.NodePublishSecretRef
	}
	return nil
}
