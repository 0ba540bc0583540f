"""The step that makes a hypertable a plain table: its rows move into one, and so does all that was said about it. Pure."""

from __future__ import annotations

from textwrap import indent

from app.timescale.steps import Hold, Lock, Needs, Reach, Step, Work, guard

# What can't be said again of another table, and why.
_REFUSED = """
SELECT format('%I is an identity column', attname) FROM pg_attribute WHERE attrelid = old AND attidentity <> ''
UNION ALL
SELECT format('the publication %I names it', pubname) FROM pg_publication_rel JOIN pg_publication ON pg_publication.oid = prpubid
WHERE prrelid = old
UNION ALL
SELECT format('%s depends on it', pg_describe_object(classid, objid, objsubid)) FROM (
  SELECT 'pg_class'::regclass AS classid, ev_class AS objid, 0 AS objsubid FROM pg_depend JOIN pg_rewrite ON pg_rewrite.oid = objid
  WHERE classid = 'pg_rewrite'::regclass AND refclassid = 'pg_class'::regclass AND refobjid = old AND ev_class <> old
  UNION
  SELECT classid, objid, 0 FROM pg_depend WHERE refclassid = 'pg_type'::regclass AND deptype = 'n'
    AND refobjid = (SELECT reltype FROM pg_class WHERE oid = old)
) AS dependent
""".strip()

# What makes the new table "{table}__plain" the like of the old one before it has rows.
_BEFORE = """
SELECT 1 AS place, format('ALTER TABLE "{table}__plain" SET UNLOGGED') AS statement
FROM pg_class WHERE oid = old AND relpersistence = 'u'
UNION ALL
SELECT 1, format('ALTER TABLE "{table}__plain" SET TABLESPACE %I', spcname)
FROM pg_class JOIN pg_tablespace ON pg_tablespace.oid = reltablespace WHERE pg_class.oid = old
UNION ALL
SELECT 2, format('ALTER SEQUENCE %s OWNED BY "{table}__plain".%I', objid::regclass, attname)
FROM pg_depend JOIN pg_class ON pg_class.oid = objid JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
WHERE refobjid = old AND relkind = 'S' AND deptype = 'a'
""".strip()

# What is said of the old table and its parts, for the new one under its name: in an order in which each finds what it names.
_AFTER = """
SELECT 1 AS place, format('ALTER TABLE "{table}" ADD CONSTRAINT %I %s', conname, pg_get_constraintdef(oid)) AS statement
FROM pg_constraint WHERE conrelid = old AND contype IN ('p', 'u', 'c', 'f', 'x')
UNION ALL
SELECT 2, pg_get_indexdef(indexrelid) FROM pg_index
WHERE indrelid = old AND NOT EXISTS (
  SELECT FROM pg_constraint WHERE conrelid = indrelid AND conindid = indexrelid AND contype <> 'f'
)
UNION ALL
SELECT 2, pg_get_statisticsobjdef(oid) FROM pg_statistic_ext WHERE stxrelid = old
UNION ALL
SELECT 3, format('ALTER TABLE "{table}" REPLICA IDENTITY %s', CASE relreplident WHEN 'n' THEN 'NOTHING' WHEN 'f' THEN 'FULL'
         ELSE 'USING INDEX ' || (SELECT quote_ident(relname) FROM pg_index JOIN pg_class ON oid = indexrelid
                                 WHERE indrelid = old AND indisreplident) END)
FROM pg_class WHERE oid = old AND relreplident <> 'd'
UNION ALL
SELECT 3, format('ALTER TABLE "{table}" CLUSTER ON %I', relname)
FROM pg_index JOIN pg_class ON oid = indexrelid WHERE indrelid = old AND indisclustered
UNION ALL
SELECT 3, format('ALTER TABLE "{table}" ALTER COLUMN %I SET STATISTICS %s', attname, attstattarget)
FROM pg_attribute WHERE attrelid = old AND attnum > 0 AND NOT attisdropped AND attstattarget >= 0
UNION ALL
SELECT 3, format('ALTER TABLE "{table}" ALTER COLUMN %I SET (%s)', attname, array_to_string(attoptions, ', '))
FROM pg_attribute WHERE attrelid = old AND attnum > 0 AND NOT attisdropped AND attoptions IS NOT NULL
UNION ALL
SELECT 3, format('ALTER TABLE "{table}" SET (%s%s = %L)', prefix, split_part(option, '=', 1), substr(option, strpos(option, '=') + 1))
FROM pg_class CROSS JOIN LATERAL (
  SELECT '', unnest(reloptions)
  UNION ALL
  SELECT 'toast.', unnest(toast.reloptions) FROM pg_class AS toast WHERE toast.oid = pg_class.reltoastrelid
) AS said (prefix, option) WHERE pg_class.oid = old
UNION ALL
SELECT 4, pg_get_triggerdef(pg_trigger.oid) FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
WHERE tgrelid = old AND NOT tgisinternal AND pronamespace::regnamespace::text !~ '^_timescaledb'
UNION ALL
SELECT 5, format('ALTER TABLE "{table}" %s TRIGGER %I', CASE tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
         ELSE 'ENABLE ALWAYS' END, tgname)
FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
WHERE tgrelid = old AND NOT tgisinternal AND tgenabled <> 'O' AND pronamespace::regnamespace::text !~ '^_timescaledb'
UNION ALL
SELECT 4, pg_get_ruledef(oid) FROM pg_rewrite WHERE ev_class = old
UNION ALL
SELECT 5, format('ALTER TABLE "{table}" %s RULE %I', CASE ev_enabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
         ELSE 'ENABLE ALWAYS' END, rulename)
FROM pg_rewrite WHERE ev_class = old AND ev_enabled <> 'O'
UNION ALL
SELECT 4, format('CREATE POLICY %I ON "{table}" AS %s FOR %s TO %s%s%s', policyname, permissive, cmd,
                 (SELECT string_agg(quote_ident(role), ', ') FROM unnest(roles) AS role),
                 ' USING (' || qual || ')', ' WITH CHECK (' || with_check || ')')
FROM pg_policies WHERE schemaname = current_schema() AND tablename = '{table}'
UNION ALL
SELECT 5, format('ALTER TABLE "{table}" ENABLE ROW LEVEL SECURITY') FROM pg_class WHERE oid = old AND relrowsecurity
UNION ALL
SELECT 5, format('ALTER TABLE "{table}" FORCE ROW LEVEL SECURITY') FROM pg_class WHERE oid = old AND relforcerowsecurity
UNION ALL
SELECT 6, format('COMMENT ON %s IS %L', named, description) FROM pg_description JOIN (
  SELECT 'pg_class'::regclass, old::oid, 'TABLE "{table}"'
  UNION ALL
  SELECT 'pg_class'::regclass, indexrelid, format('INDEX %I', relname) FROM pg_index JOIN pg_class ON oid = indexrelid
  WHERE indrelid = old
  UNION ALL
  SELECT 'pg_constraint'::regclass, oid, format('CONSTRAINT %I ON "{table}"', conname) FROM pg_constraint
  WHERE conrelid = old AND contype IN ('p', 'u', 'c', 'f', 'x')
  UNION ALL
  SELECT 'pg_trigger'::regclass, oid, format('TRIGGER %I ON "{table}"', tgname) FROM pg_trigger
  WHERE tgrelid = old AND NOT tgisinternal
  UNION ALL
  SELECT 'pg_policy'::regclass, oid, format('POLICY %I ON "{table}"', polname) FROM pg_policy WHERE polrelid = old
) AS parts (class, object, named) ON (classoid, objoid) = (class, object) WHERE objsubid = 0
UNION ALL
-- Rights last. What a new table has by default, the old one needn't have.
SELECT 7, format('REVOKE ALL ON "{table}" FROM %s', CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END)
FROM pg_class CROSS JOIN LATERAL (
  SELECT grantee FROM aclexplode(relacl) UNION SELECT relowner
  UNION SELECT (aclexplode(defaclacl)).grantee FROM pg_default_acl WHERE defaclobjtype = 'r'
) AS held WHERE oid = old AND (relacl IS NOT NULL OR EXISTS (SELECT FROM pg_default_acl WHERE defaclobjtype = 'r'))
UNION ALL
SELECT 8, format('GRANT %s%s ON "{table}" TO %s%s', privilege_type, ' (' || quote_ident(attname) || ')',
                 CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
                 CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END)
FROM (
  SELECT NULL::name AS attname, coalesce(relacl, CASE WHEN EXISTS (SELECT FROM pg_default_acl WHERE defaclobjtype = 'r')
                                                      THEN acldefault('r', relowner) END) AS rights
  FROM pg_class WHERE oid = old
  UNION ALL
  SELECT attname, attacl FROM pg_attribute WHERE attrelid = old AND attnum > 0 AND NOT attisdropped
) AS said CROSS JOIN LATERAL aclexplode(rights)
""".strip()


def make_plain(table: str) -> Step:
    """TimescaleDB has no way back: the rows move to a plain table, which gets whatever was said of the old."""
    before, after = (_indent(each.format(table=table)) for each in (_BEFORE, _AFTER))
    body = f"""
DECLARE
  old CONSTANT regclass := '"{table}"'::regclass;
  columns text;
  reasons text;
  statement text;
  statements text[];
BEGIN
  LOCK TABLE "{table}" IN ACCESS EXCLUSIVE MODE;
  SELECT string_agg(reason, ', ') INTO reasons FROM (
{_indent(_REFUSED)}
  ) AS found (reason);
  IF reasons IS NOT NULL THEN
    RAISE EXCEPTION 'The hypertable {table} can''t become a plain table as it is: %. Take that away before, and give it to the plain table after.', reasons
      USING ERRCODE = 'feature_not_supported';
  END IF;
  SELECT array_agg(made.statement ORDER BY place, made.statement) INTO statements FROM (
{after}
  ) AS made;
  SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns FROM pg_attribute
  WHERE attrelid = old AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
  CREATE TABLE "{table}__plain" (
    LIKE "{table}" INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION INCLUDING COMMENTS
  );
  EXECUTE (SELECT format('ALTER TABLE "{table}__plain" OWNER TO %I', pg_get_userbyid(relowner)) FROM pg_class WHERE oid = old);
  FOR statement IN SELECT made.statement FROM (
{before}
  ) AS made ORDER BY place, made.statement
  LOOP
    EXECUTE statement;
  END LOOP;
  ALTER TABLE "{table}" NO FORCE ROW LEVEL SECURITY; -- or an owner would move those rows alone that a policy shows
  EXECUTE format('INSERT INTO "{table}__plain" (%s) SELECT %s FROM "{table}"', columns, columns);
  DROP TABLE "{table}";
  ALTER TABLE "{table}__plain" RENAME TO "{table}";
  FOREACH statement IN ARRAY coalesce(statements, '{{}}') LOOP
    EXECUTE statement;
  END LOOP;
END;"""
    holds = (Hold(table, Lock.ACCESS_EXCLUSIVE), Hold(table, Lock.ACCESS_EXCLUSIVE, Reach.REFERRED))
    return Step(guard(Needs.HYPERTABLES, body), holds, Needs.HYPERTABLES, work=Work.GROWS)


def _indent(query: str) -> str:
    return indent(query, "    ")
