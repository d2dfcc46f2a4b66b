package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	imagepolicyv1alpha1 "k8s.io/api/imagepolicy/v1alpha1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/cache"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"

	"github.com/skiff-k8s/skiff/apiserver/reach"
)

// imagePolicyConfig is the configuration of ImagePolicyWebhook. Of times, 0 is the default, and -1 none; they are in seconds,
// the pause in milliseconds.
type imagePolicyConfig struct {
	KubeConfigFile string        `json:"kubeConfigFile"`
	AllowTTL       time.Duration `json:"allowTTL"`
	DenyTTL        time.Duration `json:"denyTTL"`
	RetryBackoff   time.Duration `json:"retryBackoff"`
	DefaultAllow   bool          `json:"defaultAllow"`
}

// imagePolicy asks a webhook about the images of pods.
type imagePolicy struct {
	imagePolicyConfig
	client  *rest.RESTClient
	answers *cache.LRUExpireCache
}

// Annotations of pods with imageNote in their keys are shown to the webhook; what it wants to be written down of its
// decision stands under imageAudit.
const (
	imageNote  = ".image-policy.k8s.io/"
	imageAudit = "imagepolicywebhook.image-policy.k8s.io/"
)

// mostImageAnswers are kept, each of mostImageAnswer bytes at most with its question.
const mostImageAnswers, mostImageAnswer = 1024, 64 << 10

var imageReviews = func() runtime.Codec {
	scheme := runtime.NewScheme()
	utilruntime.Must(imagepolicyv1alpha1.AddToScheme(scheme))
	return serializer.NewCodecFactory(scheme).LegacyCodec(imagepolicyv1alpha1.SchemeGroupVersion)
}()

func imagePolicyWebhook(data []byte) (Plugin, error) {
	if data == nil {
		return Plugin{}, errors.New("no config specified")
	}
	var file struct {
		ImagePolicy imagePolicyConfig `json:"imagePolicy"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		return Plugin{}, err
	}
	p := &imagePolicy{imagePolicyConfig: file.ImagePolicy, answers: cache.NewLRUExpireCache(mostImageAnswers)}
	for _, d := range []struct {
		value                     *time.Duration
		unit, least, most, normal time.Duration
	}{
		{&p.RetryBackoff, time.Millisecond, 1, 5 * time.Minute, 500 * time.Millisecond},
		{&p.AllowTTL, time.Second, time.Second, 30 * time.Minute, 5 * time.Minute},
		{&p.DenyTTL, time.Second, time.Second, 30 * time.Minute, 30 * time.Second},
	} {
		switch {
		case *d.value == -1:
			*d.value = 0
			continue
		case *d.value == 0:
			*d.value = d.normal
			continue
		}
		if *d.value *= d.unit; *d.value < d.least || *d.value > d.most {
			return Plugin{}, fmt.Errorf("valid value is between %v and %v, got %v", d.least, d.most, *d.value)
		}
	}
	var err error
	if p.client, err = reach.Reviewer(p.KubeConfigFile, 30*time.Second, imageReviews); err != nil {
		return Plugin{}, err
	}
	return Plugin{Name: "ImagePolicyWebhook", Validate: p.validate}, nil
}

func (p *imagePolicy) validate(ctx context.Context, a *Attributes) error {
	images, pod := reviewedImages(a)
	if pod == nil {
		return nil
	}
	spec := imagepolicyv1alpha1.ImageReviewSpec{Namespace: a.Namespace, Annotations: make(map[string]string)}
	for _, image := range images {
		spec.Containers = append(spec.Containers, imagepolicyv1alpha1.ImageReviewContainerSpec{Image: image})
	}
	for key, value := range pod.Annotations {
		if strings.Contains(key, imageNote) {
			spec.Annotations[key] = value
		}
	}
	answer, err := p.ask(ctx, spec)
	switch {
	case err != nil && p.DefaultAllow:
		a.audit(imageAudit+"failed-open", "true")
		return nil
	case err != nil:
		return a.forbid("%w", err)
	}
	for key, value := range answer.AuditAnnotations {
		a.audit(imageAudit+key, value)
	}
	switch {
	case answer.Allowed:
		return nil
	case answer.Reason != "":
		return a.forbid("image policy webhook backend denied one or more images: %s", answer.Reason)
	}
	return a.forbid("one or more images rejected by webhook backend")
}

// reviewedImages are those that a brings into the cluster, and their pod; nil if it brings none.
func reviewedImages(a *Attributes) (list []string, pod *corev1.Pod) {
	if a.Verb != create && a.Verb != update {
		return nil, nil
	}
	switch {
	case a.is("", "pods"):
		if pod, _ = a.New.(*corev1.Pod); pod != nil {
			for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
				list = append(list, c.Image)
			}
		}
	case a.isSub("", "pods", "ephemeralcontainers"):
		if pod, _ = a.New.(*corev1.Pod); pod != nil {
			for _, c := range pod.Spec.EphemeralContainers {
				list = append(list, c.Image)
			}
		}
	}
	return list, pod
}

// ask asks the webhook, unless an answer that it gave still holds.
func (p *imagePolicy) ask(ctx context.Context, spec imagepolicyv1alpha1.ImageReviewSpec) (imagepolicyv1alpha1.ImageReviewStatus, error) {
	key, err := json.Marshal(spec)
	if err != nil {
		return imagepolicyv1alpha1.ImageReviewStatus{}, err
	}
	if known, ok := p.answers.Get(string(key)); ok {
		return known.(imagepolicyv1alpha1.ImageReviewStatus), nil
	}
	review := &imagepolicyv1alpha1.ImageReview{}
	quiet := klog.NewContext(ctx, logr.Discard()) // what goes wrong is in the error
	err = reach.Persist(ctx, p.RetryBackoff, func() error {
		return p.client.Post().Body(&imagepolicyv1alpha1.ImageReview{Spec: spec}).Do(quiet).Into(review)
	})
	if err != nil {
		return imagepolicyv1alpha1.ImageReviewStatus{}, err
	}
	holds := p.DenyTTL
	if review.Status.Allowed {
		holds = p.AllowTTL
	}
	size := len(key) + len(review.Status.Reason)
	for k, v := range review.Status.AuditAnnotations {
		size += len(k) + len(v)
	}
	if holds > 0 && size < mostImageAnswer {
		p.answers.Add(string(key), review.Status, holds)
	}
	return review.Status, nil
}
