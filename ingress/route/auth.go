package route

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"golang.org/x/crypto/bcrypt"
	corev1 "k8s.io/api/core/v1"
)

// Users are names and hashes of passwords, as htpasswd writes them.
type Users map[string]string

// usersOf reads the users of a Secret: lines of the key "auth", or a key for each.
func usersOf(secret *corev1.Secret, style string) (Users, error) {
	users := make(Users)
	if style == "auth-map" {
		for name, hash := range secret.Data {
			users[name] = strings.TrimSpace(string(hash))
		}
		return users, nil
	}
	data, ok := secret.Data["auth"]
	if !ok {
		return nil, fmt.Errorf("Secret %s has no key auth", secret.Name)
	}
	for line := range bytes.Lines(data) {
		name, hash, ok := strings.Cut(strings.TrimSpace(string(line)), ":")
		if ok && name != "" && name[0] != '#' {
			hash, _, _ = strings.Cut(hash, ":") // a comment may follow
			users[name] = hash
		}
	}
	return users, nil
}

// Check reports whether a user has a password. It takes as long as the hash does, which for bcrypt is much.
func (u Users) Check(name, password string) bool {
	hash, known := u[name]
	if !known {
		return false
	}
	switch {
	case strings.HasPrefix(hash, "$2"):
		return bcrypt.CompareHashAndPassword([]byte(hash), []byte(password)) == nil
	case strings.HasPrefix(hash, "$apr1$"):
		return same(hash, apr1(password, saltOf(hash[len("$apr1$"):])))
	case strings.HasPrefix(hash, "{SHA}"):
		sum := sha1.Sum([]byte(password))
		return same(hash, "{SHA}"+base64.StdEncoding.EncodeToString(sum[:]))
	case strings.HasPrefix(hash, "{SSHA}"):
		raw, err := base64.StdEncoding.DecodeString(hash[len("{SSHA}"):])
		if err != nil || len(raw) < sha1.Size {
			return false
		}
		sum := sha1.Sum(append([]byte(password), raw[sha1.Size:]...))
		return same(string(raw[:sha1.Size]), string(sum[:]))
	case strings.HasPrefix(hash, "{PLAIN}"):
		return same(hash[len("{PLAIN}"):], password)
	}
	return false
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func saltOf(rest string) string {
	salt, _, _ := strings.Cut(rest, "$")
	return salt[:min(len(salt), 8)]
}

// apr1 is Apache's variant of the MD5 hash of FreeBSD: a thousand rounds over password and salt.
func apr1(password, salt string) string {
	inner := md5.Sum([]byte(password + salt + password))
	first := []byte(password + "$apr1$" + salt)
	for n := len(password); n > 0; n -= md5.Size {
		first = append(first, inner[:min(n, md5.Size)]...)
	}
	for n := len(password); n > 0; n >>= 1 {
		if n&1 == 1 {
			first = append(first, 0)
		} else {
			first = append(first, password[0])
		}
	}
	sum := md5.Sum(first)
	for i := range 1000 {
		var round []byte
		if i%2 == 1 {
			round = append(round, password...)
		} else {
			round = append(round, sum[:]...)
		}
		if i%3 != 0 {
			round = append(round, salt...)
		}
		if i%7 != 0 {
			round = append(round, password...)
		}
		if i%2 == 1 {
			round = append(round, sum[:]...)
		} else {
			round = append(round, password...)
		}
		sum = md5.Sum(round)
	}
	return "$apr1$" + salt + "$" + crypt64(sum)
}

// crypt64 writes a hash in the letters and the order that crypt has.
func crypt64(sum [md5.Size]byte) string {
	const letters = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	var out strings.Builder
	put := func(v uint, n int) {
		for range n {
			out.WriteByte(letters[v&63])
			v >>= 6
		}
	}
	for _, i := range [][3]int{{0, 6, 12}, {1, 7, 13}, {2, 8, 14}, {3, 9, 15}, {4, 10, 5}} {
		put(uint(sum[i[0]])<<16|uint(sum[i[1]])<<8|uint(sum[i[2]]), 4)
	}
	put(uint(sum[11]), 2)
	return out.String()
}
