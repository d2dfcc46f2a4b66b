package volume

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

func secretFiles(ctx context.Context, v *volume) (map[string]file, error) {
	s := v.Secret
	return v.fromSecret(ctx, s.SecretName, s.Items, s.DefaultMode, s.Optional)
}

// fromSecret are the files of a Secret; none when it is optional and does not exist.
func (v *volume) fromSecret(ctx context.Context, name string, items []v1.KeyToPath, mode *int32, optional *bool) (map[string]file, error) {
	object, err := v.m.secrets.get(ctx, v.pod, name)
	if apierrors.IsNotFound(err) && isTrue(optional) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	missing := func(key string) error { return fmt.Errorf("references non-existent secret key: %s", key) }
	return filesOf(object.Data, items, fileMode(mode), isTrue(optional), missing)
}
